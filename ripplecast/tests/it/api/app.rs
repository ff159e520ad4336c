//! The app: routes, layers, files, merging and its address.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract,
    http::{Method, Request as HttpRequest, StatusCode, header::RETRY_AFTER},
    response::Response,
    routing::{MethodRouter, get, post},
};
use http_body_util::BodyExt as _;
use ripplecast::{
    Accept, App, Error, Request,
    error::{BackendError, StateError},
    sse,
};
use tower::{ServiceExt as _, util::MapRequestLayer};

use super::super::clients::{Script, TestServer};

#[test]
fn routes_layers_files_and_merged_routers_are_served_together() {
    let root = std::env::temp_dir().join(format!("ripplecast-files-{}", std::process::id()));
    fs::create_dir_all(root.join("below")).unwrap();
    fs::write(root.join("below/hello.txt"), "from a file").unwrap();

    let seen = Arc::new(AtomicUsize::new(0));
    let server = TestServer::start(App::builder(), |app| {
        let count = seen.clone();
        let layer = MapRequestLayer::new(move |mut request: extract::Request| {
            count.fetch_add(1, SeqCst);
            request.extensions_mut().insert("from the layer");
            request
        });
        let other = Router::new().route("/other", post(async |body: String| body + "!"));
        let says = async |extract::Extension(says): extract::Extension<&'static str>| says;
        // The hook receives what the layer has added to the request.
        let guarded = ripplecast::ws::endpoint(Script(app.hub())).on_upgrade(
            |request: ripplecast::Request| async move {
                match request.parts().extensions.get::<&'static str>() {
                    Some(_) => Ok(ripplecast::Accept::new()),
                    None => Err(StatusCode::FORBIDDEN),
                }
            },
        );
        app.route("/says", get(says))
            .ws("/ws", guarded)
            .sse("/events", sse::room("r"))
            .merge(other)
            .files("/files", &root)
            .unwrap()
            .layer(layer)
            .route(
                "/later",
                get(async |request: extract::Request| {
                    request.extensions().get::<&str>().is_none().to_string()
                }),
            )
    });
    assert_eq!(server.http("GET", "/says").body, "from the layer");
    assert_eq!(server.http("POST", "/other").body, "!");
    assert_eq!(server.http("GET", "/files/below/hello.txt").body, "from a file");
    let head = server.http("HEAD", "/files/below/hello.txt");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in [
        "/files/below",
        "/files/below/",
        "/files/",
        "/files/none",
        "/files/../Cargo.toml",
        "/files/%2e%2e/Cargo.toml",
    ] {
        assert_eq!(server.http("GET", path).status, 404, "{path}");
    }
    assert!(seen.load(SeqCst) >= 4);
    let before = seen.load(SeqCst);
    server.scripted("/ws", "own hello").close();
    drop(server.events("/events"));
    assert_eq!(seen.load(SeqCst), before + 2, "a layer receives upgrades and streams, too");
    assert_eq!(server.http("GET", "/later").body, "true", "a layer wraps only what was added before it");
    assert_eq!(server.http("GET", "/nowhere").status, 404);
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn serving_files_from_a_path_that_is_not_a_directory_fails() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let missing = std::env::temp_dir().join("ripplecast-is-not-there");
        assert!(App::builder().build().await.unwrap().files("/files", &missing).is_err());
    });
}

/// A route that fails with this error.
fn fails(error: fn() -> Error) -> MethodRouter {
    get(async move || -> ripplecast::Result<()> { Err(error()) })
}

#[tokio::test]
async fn an_app_can_be_converted_into_a_plain_router() {
    let app = App::builder().build().await.unwrap();
    let hub = app.hub();
    let router: Router = app
        .route("/hello", get(async || "hello"))
        .route("/overloaded", fails(|| Error::Overloaded { what: "it", limit: 1 }))
        .route("/closed", fails(|| Error::Closed))
        .route("/away", fails(|| BackendError::Unavailable { reason: "a secret".into() }.into()))
        .route("/late", fails(|| BackendError::TimedOut { after: Duration::from_secs(2) }.into()))
        .route("/refused", fails(|| BackendError::Refused { message: "a secret".into() }.into()))
        .route(
            "/full",
            fails(|| StateError::TableFull { table: "a secret".into(), capacity: 1, rows: 2 }.into()),
        )
        .route("/failed", fails(|| Error::other("a secret")))
        .ws("/ws", Script(hub.clone()))
        .into_router();
    let ask = async |method: Method, path: &str| -> (StatusCode, Response) {
        let request = HttpRequest::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        (response.status(), response)
    };
    let text = async |response: Response| {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let (status, response) = ask(Method::GET, "/hello").await;
    assert_eq!((status, text(response).await.as_str()), (StatusCode::OK, "hello"));
    for (path, wanted) in [
        ("/overloaded", 503),
        ("/closed", 503),
        ("/away", 503),
        ("/late", 503),
        ("/refused", 500),
        ("/full", 500),
        ("/failed", 500),
        ("/nowhere", 404),
    ] {
        let (status, response) = ask(Method::GET, path).await;
        assert_eq!(status, wanted, "{path}");
        assert_eq!(response.headers().contains_key(RETRY_AFTER), wanted == 503, "{path}");
        assert!(!text(response).await.contains("secret"));
    }
    let (status, response) = ask(Method::GET, "/ws").await;
    assert!(matches!(status.as_u16(), 400 | 426), "{status}: {}", text(response).await);
    let (status, _) = ask(Method::POST, "/ws").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_port_in_use_and_an_invalid_address_each_give_one_clear_error() {
    let taken = App::builder().build().await.unwrap().bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr();
    let app = async || App::builder().build().await.unwrap();
    let errors = [
        app().await.bind(addr).await.unwrap_err(),
        app().await.bind(addr.to_string()).await.unwrap_err(),
        app().await.bind((addr.ip(), addr.port())).await.unwrap_err(),
        app().await.bind(&*format!("localhost:{}", addr.port())).await.unwrap_err(),
        app().await.run(addr).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, Error::Listen { addr: at, .. } if *at == addr), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("can't listen on {addr}, which is in use")), "{text}");
        assert!(text.ends_with("; choose another port, or 0 for a free one"), "{text}");
        assert!(!text.contains('\n'));
    }
    let foreign = app().await.bind("203.0.113.1:0").await.unwrap_err();
    assert!(foreign.to_string().contains("which this machine does not have"), "{foreign}");
    for nonsense in ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", ":80"] {
        let error = app().await.bind(nonsense).await.unwrap_err();
        assert!(matches!(&error, Error::Setting { value, .. } if value == nonsense), "{error:?}");
    }
    drop(taken);
    assert_eq!(app().await.bind(addr).await.unwrap().local_addr(), addr);
}

#[tokio::test]
async fn an_unknown_backend_is_rejected_by_name() {
    let error = App::builder().backend("mongodb://localhost").build().await.unwrap_err().to_string();
    assert!(
        error.contains("backend") && error.contains("mongodb://localhost") && error.contains("memory"),
        "{error}"
    );
    assert!(App::builder().backend("memory").build().await.is_ok());
}

#[tokio::test]
#[should_panic(expected = "`/ws` already has an endpoint")]
async fn two_endpoints_on_one_path_panic_with_the_path() {
    let app = ripplecast::App::builder().build().await.unwrap();
    let _app = app.ws("/ws", ripplecast::ws::handlers()).sse("/ws", "room");
}

/// Below its base path, an app serves the same routes, and handlers receive paths without the prefix.
#[tokio::test]
async fn all_routes_are_served_below_the_base_path_as_well() {
    let app = App::builder().build().await.unwrap();
    let says = async |uri: axum::http::Uri| uri.to_string();
    let app = app.route("/", get(says)).route("/says/{what}", get(says)).base_path("/a/rt").unwrap();
    let router = app.route("/later", get(says)).into_router();
    let ask = async |path: &str| {
        let request = HttpRequest::get(path).body(Body::empty()).unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let location = parts.headers.get("location").map(|to| to.to_str().unwrap().to_owned());
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        (parts.status.as_u16(), location.unwrap_or(body))
    };
    for (path, expected) in [
        ("/", (200, "/")),
        ("/a/rt/", (200, "/")),
        ("/a/rt", (308, "rt/")),
        ("/a/rt/says/x?y=1", (200, "/says/x?y=1")),
        ("/says/x?y=1", (200, "/says/x?y=1")),
        ("/a/rt/none", (404, "")),
        ("/a/rtx", (404, "")),
        ("/later", (200, "/later")),
        ("/a/rt/later", (404, "")),
    ] {
        assert_eq!(ask(path).await, (expected.0, expected.1.to_owned()), "{path}");
    }
    let error = App::builder().build().await.unwrap().base_path("rt/").unwrap_err();
    assert!(error.to_string().contains("base_path"), "{error}");
}

/// Handlers and hooks receive the path below which the client sees the server.
#[tokio::test]
async fn the_base_path_comes_from_the_app_or_a_trusted_proxy() {
    let proxies = "127.0.0.1".parse().unwrap();
    let app = App::builder().trusted_proxies(proxies).build().await.unwrap();
    let hub = app.hub();
    let says = async move |parts: axum::http::request::Parts| hub.base_path(&parts);
    let hook = async |request: Request| Err::<Accept, _>(request.base_path().to_owned());
    let stream = sse::room("r").on_request(hook);
    let app = app.route("/plain", get(says)).sse("/hook", stream).base_path("/rt").unwrap();
    let router = app.base_path("/outer").unwrap().into_router();
    let ask = async |path: &str, from: [u8; 4], prefix: &str| {
        let request = HttpRequest::get(path).header("host", "a").header("x-forwarded-prefix", prefix);
        let peer = extract::ConnectInfo(std::net::SocketAddr::from((from, 5)));
        let request = request.extension(peer).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    };
    let (proxy, stranger) = ([127, 0, 0, 1], [192, 0, 2, 7]);
    for path in ["/plain", "/hook"] {
        for (path, own) in [
            (path.to_owned(), ""),
            (format!("/rt{path}"), "/rt"),
            (format!("/outer{path}"), "/outer"),
            (format!("/outer/rt{path}"), "/outer/rt"),
        ] {
            assert_eq!(ask(&path, proxy, "/seen/by/all/").await, "/seen/by/all", "{path}");
            assert_eq!(ask(&path, proxy, "/").await, "", "{path}");
            assert_eq!(ask(&path, proxy, "//evil.example").await, own, "{path}");
            assert_eq!(ask(&path, stranger, "/evil").await, own, "{path}");
        }
    }
}
