//! Hosts, and the pages that may connect.

use super::*;

#[test]
fn the_target_takes_precedence_over_host_and_an_invalid_host_gets_400() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                router
                    .route("/echo", hub.ws(Echo::default()))
                    .route("/events", hub.sse("r"))
                    .route("/plain", axum::routing::get(async || "plain"))
            },
        );
        let answer = |request: &str| ask(&site, request).0.split(' ').nth(1).unwrap().to_owned();
        let upgrade = |target: &str, hosts: &str, origin: &str| {
            let request = request(target, &format!("Origin: {origin}\r\n"));
            answer(&request.replace("Host: here.example\r\n", hosts))
        };
        // A page of the target's host may connect, one of the header's may not.
        let (host, there) = ("Host: here.example\r\n", "http://there.example/echo");
        assert_eq!(upgrade(there, host, "http://there.example"), "101", "{server:?}");
        assert_eq!(upgrade(there, host, "http://here.example"), "403", "{server:?}");
        assert_eq!(upgrade("/echo", host, "http://here.example"), "101", "{server:?}");
        let bad = [
            "",
            "Host: here.example\r\nHost: here.example\r\n",
            "Host: here.example\r\nHost: there.example\r\n",
            "Host:\r\n",
            "Host: user@here.example\r\n",
            "Host: here.example, there.example\r\n",
            "Host: here.example:99999\r\n",
            "Host: here.example/path\r\n",
        ];
        // Under another server, that server decides about plain routes.
        let plain = if server == Server::Own { "400" } else { "200" };
        for hosts in bad {
            assert_eq!(upgrade("/echo", hosts, "http://here.example"), "400", "{server:?} {hosts:?}");
            let get = |path: &str| answer(&format!("GET {path} HTTP/1.1\r\n{hosts}\r\n"));
            assert_eq!(get("/events"), "400", "{server:?} {hosts:?}");
            assert_eq!(get("/plain"), plain, "{server:?} {hosts:?}");
        }
        // An HTTP/1.0 request needs no host.
        assert_eq!(answer("GET /plain HTTP/1.0\r\n\r\n"), "200", "{server:?}");
        assert_eq!(answer("GET /events HTTP/1.0\r\n\r\n"), "200", "{server:?}");
        site.stop();
    }
}

#[test]
fn a_plain_page_is_refused_where_a_trusted_proxy_says_https() {
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).trusted_proxies("loopback".parse().unwrap()),
        |hub, router| router.route("/echo", hub.ws(Echo::default())),
    );
    let status = |origin: &str, proto: &str| status(&site, "/echo", &format!("Origin: {origin}\r\n{proto}"));
    let (plain, secure) = ("http://here.example", "https://here.example");
    for (proto, expected) in [
        ("X-Forwarded-Proto: https\r\n", 403),
        ("Forwarded: proto=https\r\n", 403),
        ("X-Forwarded-Proto: http\r\n", 101),
        ("", 101),
    ] {
        assert_eq!(status(plain, proto), expected, "{proto}");
        assert_eq!(status(secure, proto), 101, "{proto}");
    }
    site.stop();
}

#[test]
fn hooks_and_routes_receive_the_effective_host() {
    let show = |authority: Option<&ripplecast::request::Authority>| {
        authority.map(ToString::to_string).unwrap_or_default()
    };
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).trusted_proxies("loopback".parse().unwrap()),
        |hub, router| {
            let refused = ws::endpoint(Echo::default()).origins(OriginPolicy::Any).on_upgrade(
                move |request: Request| {
                    let host = [("x-host", show(request.authority()))];
                    std::future::ready(Err::<Accept, _>((StatusCode::IM_A_TEAPOT, host)))
                },
            );
            let of_hub = hub.clone();
            let plain = async move |request: axum::extract::Request| {
                let authority = of_hub.authority(&request.into_parts().0);
                authority.map(|authority| [("x-host", show(authority.as_ref()))])
            };
            router.route("/ws", hub.ws(refused)).route("/plain", axum::routing::get(plain))
        },
    );
    for (target, headers, expected) in [
        ("", "", "here.example"),
        ("http://There.example:81", "", "there.example:81"),
        ("http://there.example", "X-Forwarded-Host: evil.example, Shop.example\r\n", "shop.example"),
        ("", "X-Forwarded-Host: user@evil.example\r\n", "here.example"),
    ] {
        for path in ["/ws", "/plain"] {
            let (head, _) = ask(&site, &request(&format!("{target}{path}"), headers));
            assert!(
                head.contains(&format!("\r\nx-host: {expected}\r\n")),
                "{target}{path} {headers}: {head}"
            );
        }
    }
    site.stop();
}

#[test]
fn a_page_of_another_origin_is_rejected_before_the_upgrade() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let list = OriginPolicy::list(["https://page.example", "http://localhost:3000"]).unwrap();
                let hook = |_: Request| async { Ok::<_, StatusCode>(Accept::new()) };
                router
                    .route("/same", hub.ws(ws::endpoint(Echo::default()).on_upgrade(hook)))
                    .route("/list", hub.ws(ws::endpoint(Echo::default()).origins(list)))
                    .route("/any", hub.ws(ws::endpoint(Echo::default()).origins(OriginPolicy::Any)))
            },
        );
        let status = |path, origin: &str| status(&site, path, &format!("Origin: {origin}\r\n"));
        // The requests' Host is here.example.
        assert_eq!(status("/same", "http://here.example"), 101);
        assert_eq!(status("/same", "https://here.example"), 101);
        for other in
            ["https://evil.example", "http://here.example.evil.example", "http://here.example:81", "null"]
        {
            assert_eq!(status("/same", other), 403, "{other}");
            assert_eq!(status("/list", other), 403, "{other}");
            assert_eq!(status("/any", other), 101, "{other}");
        }
        assert_eq!(status("/list", "https://page.example"), 101);
        assert_eq!(status("/list", "http://localhost:3000"), 101);
        assert_eq!(status("/list", "http://page.example"), 403);
        assert_eq!(status("/list", "http://here.example"), 403);
        let twice = "Origin: http://here.example\r\nOrigin: https://evil.example\r\n";
        assert_eq!(self::status(&site, "/same", twice), 403);
        assert_eq!(self::status(&site, "/same", ""), 101);
        let stats = site.stop();
        assert!(stats.opened <= 10, "a rejected page reached a callback: {stats:?}");
    }
}
