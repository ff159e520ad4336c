//! Callbacks for messages in JSON: what they receive, what they answer, and what happens to other messages.

use ripplecast::{
    Accept, Connection, Hub, Request, Result,
    ws::{self, InvalidJson},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tungstenite::Message as WsMessage;

use crate::clients::{Tab, TestServer};

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromPage {
    Add { a: i64, b: i64 },
}

#[derive(Serialize)]
struct Sum {
    sum: i64,
}

struct Who(&'static str);

/// A request that refuses every field that it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exact {
    a: i64,
}

/// Starts a server with an endpoint for each way to handle JSON.
fn server() -> TestServer {
    let add = async |conn: Connection, FromPage::Add { a, b }: FromPage| {
        conn.push_json(&Sum { sum: a + b })?.ignore();
        Ok(())
    };
    let reply = async |_: Connection, FromPage::Add { a, b }: FromPage| Ok(Sum { sum: a + b });
    TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        let in_room = ws::handlers()
            .with_state(hub)
            .on_open(async |_: Hub, conn: Connection| {
                conn.join("sums")?;
                conn.identify(conn.require::<Who>()?.0).await?;
                Ok(())
            })
            .on_json(async |hub: Hub, _: Connection, FromPage::Add { a, b }: FromPage| -> Result<()> {
                assert!(hub.room("sums").push_json(&Sum { sum: a + b })?.is_queued());
                assert_eq!(hub.user("ada").push_json(&json!({ "to": "ada" })).await?, 1);
                Ok(())
            });
        let in_room = ws::endpoint(in_room).on_upgrade(async |_: Request| Accept::new().state(Who("ada")));
        let waiting = ws::handlers().with_state(Sum { sum: 1 }.sum).on_json_request(
            async |one: i64, _: Connection, FromPage::Add { a, b }: FromPage| {
                tokio::task::yield_now().await;
                Ok(Sum { sum: a + b + one })
            },
        );
        app.ws("/add", ws::handlers().on_json(add))
            .ws("/strict", ws::handlers().on_json(add).invalid_json(InvalidJson::Close))
            .ws("/request", ws::handlers().on_json_request(reply))
            .ws("/strict-request", ws::handlers().on_json_request(reply).invalid_json(InvalidJson::Close))
            .ws("/waiting", waiting)
            .ws("/exact", ws::handlers().on_json_request(async |_: Connection, exact: Exact| Ok(exact.a)))
            .ws("/room", in_room)
            .ws("/nobody", ws::handlers().on_open(async |conn: Connection| conn.require::<Who>().map(drop)))
    })
}

fn answer(tab: &mut Tab, message: &str) -> String {
    tab.say(message);
    tab.text()
}

#[test]
fn a_message_is_parsed_and_one_that_is_not_valid_is_answered() {
    let server = server();
    let mut tab = server.tab("/add");
    assert_eq!(answer(&mut tab, r#"{"type":"add","a":1,"b":2}"#), r#"{"sum":3}"#);
    tab.socket.send(WsMessage::binary(&br#"{"type":"add","a":2,"b":2}"#[..])).unwrap();
    assert_eq!(tab.text(), r#"{"sum":4}"#);
    for (wrong, what) in [
        ("", "EOF while parsing"),
        ("nonsense", "expected"),
        (r#"{"type":"add","a":1}"#, "missing field `b`"),
        (r#"{"type":"subtract"}"#, "unknown variant `subtract`"),
    ] {
        let answer: serde_json::Value = serde_json::from_str(&answer(&mut tab, wrong)).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with("the message is not valid: ") && error.contains(what), "{answer}");
        assert_eq!(answer.as_object().unwrap().len(), 1);
    }
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000));
    assert!(answer(&mut tab, &long).len() < 500, "an answer is short, whatever was sent");
    assert_eq!(
        answer(&mut tab, r#"{"type":"add","a":3,"b":2}"#),
        r#"{"sum":5}"#,
        "the connection stays open"
    );
}

#[test]
fn a_message_that_is_not_valid_closes_where_that_is_set() {
    let server = server();
    for path in ["/strict", "/strict-request"] {
        let mut tab = server.tab(path);
        let valid = answer(&mut tab, r#"{"id":1,"type":"add","a":1,"b":2}"#);
        assert!(valid.contains(r#"{"sum":3}"#), "{valid}");
        tab.say("nonsense");
        assert_eq!(tab.next(), None);
        assert_eq!(tab.close.unwrap().0, 1007);
    }
}

#[test]
fn a_request_is_answered_with_its_id() {
    let server = server();
    for (path, sum) in [("/request", 3), ("/waiting", 4)] {
        let mut tab = server.tab(path);
        for id in ["7", r#""seven""#, "-1", "18446744073709551615"] {
            let request = format!(r#"{{"type":"add","id":{id},"a":1,"b":2}}"#);
            assert_eq!(answer(&mut tab, &request), format!(r#"{{"id":{id},"reply":{{"sum":{sum}}}}}"#));
        }
        let wrong = answer(&mut tab, r#"{"id":8,"type":"add"}"#);
        assert_eq!(wrong, r#"{"id":8,"error":"the message is not valid: missing field `a`"}"#);
        let without_id = answer(&mut tab, r#"{"type":"add","a":1,"b":2}"#);
        assert!(
            without_id.starts_with(r#"{"error":"the message is not valid: missing field `id`"#),
            "{without_id}"
        );
        for id in ["[1]", "1.10", "18446744073709551616", "null"] {
            let other = answer(&mut tab, &format!(r#"{{"id":{id},"type":"add","a":1,"b":2}}"#));
            assert!(
                other.starts_with(r#"{"error":"the message is not valid: the id must be a text"#),
                "{other}"
            );
        }
    }
}

#[test]
fn a_request_does_not_see_its_id() {
    let server = server();
    let mut tab = server.tab("/exact");
    assert_eq!(answer(&mut tab, r#"{"id":1,"a":7}"#), r#"{"id":1,"reply":7}"#);
    assert!(answer(&mut tab, r#"{"id":2,"a":7,"b":8}"#).contains("unknown field `b`"));
}

#[test]
fn rooms_and_users_receive_json() {
    let server = server();
    let mut tab = server.tab("/room");
    assert_eq!(answer(&mut tab, r#"{"type":"add","a":1,"b":2}"#), r#"{"sum":3}"#);
    assert_eq!(tab.text(), r#"{"to":"ada"}"#);
}

#[test]
fn a_state_that_is_required_and_missing_closes() {
    let server = server();
    let mut tab = server.tab("/nobody");
    assert_eq!(tab.next(), None);
    assert_eq!(tab.close, Some((1011, "the handler failed".to_owned())));
}
