use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::{address, assets, pages, router};

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

const PAGES: [&str; 6] =
    [pages::LESSON, "/demos", "/demos/chat", "/demos/dashboard", "/demos/notifications", "/demos/cursors"];

async fn send(request: Request<Body>) -> Answer {
    let path = request.uri().path().to_owned();
    let (parts, body) = router().oneshot(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    // Absolute, so that tests can request what a page names.
    let is_page = |kind: &header::HeaderValue| kind.as_bytes().starts_with(b"text/html");
    let is_page = parts.headers.get(header::CONTENT_TYPE).is_some_and(is_page);
    let body = if is_page { address::from_root(&body, &path) } else { body };
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(path: &str) -> Answer {
    send(Request::get(path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn the_root_redirects_to_the_lesson() {
    let answer = get("/").await;
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.header(header::LOCATION), "learn/websocket");
}

#[tokio::test]
async fn the_default_icon_path_redirects_to_the_icon() {
    let answer = get("/favicon.ico").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(get(&format!("/{}", answer.header(header::LOCATION))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn pages_have_security_headers() {
    for path in PAGES.into_iter().chain(["/", "/learn/search?q=x", "/assets/counter.js", "/no/such/page"]) {
        let answer = get(path).await;
        let policy = answer.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'self';"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(answer.header(header::REFERRER_POLICY), "same-origin", "{path}");
    }
}

#[tokio::test]
async fn the_lesson_shows_both_sources_escaped() {
    let answer = get(pages::LESSON).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    for (source, prefix) in [(pages::COUNTER_RS, "server"), (assets::COUNTER_JS, "browser")] {
        assert!(
            answer.body.contains(&format!("id=\"{prefix}-{}\"", source.lines().count())),
            "the last line of {prefix}"
        );
    }
    assert!(answer.body.contains("=&gt;"), "the arrows of the sources");
    assert!(!answer.body.contains("=>"), "an unescaped character");
}

#[tokio::test]
async fn pages_have_nothing_inline_and_the_lesson_has_one_status() {
    let lesson = get(pages::LESSON).await.body;
    assert_eq!(lesson.matches("role=\"status\"").count(), 1);
    assert!(!lesson.contains("<output"));
    for path in PAGES {
        let page = get(path).await.body;
        assert!(!page.contains("<style") && !page.contains(" style="), "{path}");
        assert!(!page.contains(" onclick="), "{path}");
        for script in page.split("<script").skip(1) {
            assert!(script.contains("src=\"/assets/") && script.contains("\"></script>"), "{path}: {script}");
        }
    }
}

#[tokio::test]
async fn each_page_has_one_h1_a_title_and_unique_ids() {
    for path in PAGES {
        let page = get(path).await.body;
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
        assert_eq!(page.matches("<title>").count(), 1, "{path}");
        let mut ids: Vec<&str> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "{path}");
    }
}

#[tokio::test]
async fn demo_pages_show_the_code_that_runs() {
    for name in ["chat", "dashboard", "notifications", "cursors"] {
        let page = get(&format!("/demos/{name}")).await.body;
        assert!(page.contains(&format!("ripplecast-demo/src/demos/{name}.rs")), "{name}");
        assert!(page.contains(&format!("site/assets/{name}.js")), "{name}");
    }
}

#[tokio::test]
async fn a_search_returns_a_fragment_to_htmx_and_a_page_to_others() {
    let whole = get("/learn/search?q=%3Cb%3E").await;
    assert!(whole.body.contains("<!doctype html>") && whole.body.contains("&#60;b&#62;"), "{}", whole.body);
    assert!(!whole.body.contains("<b>"), "{}", whole.body);
    assert_eq!(whole.header(header::VARY), "hx-request");
    let request =
        Request::get("/learn/search?q=room").header("hx-request", "true").body(Body::empty()).unwrap();
    let part = send(request).await.body;
    assert!(part.starts_with("<dl>") && part.contains("conn.join(room)"), "{part}");
    assert_eq!(get("/learn/search").await.status, StatusCode::OK);
}

#[test]
fn the_inspectors_pages_are_protected_and_not_cached() {
    for page in [
        crate::Page::Inspector,
        crate::Page::InspectorToken,
        crate::Page::InspectorWrongToken,
        crate::Page::InspectorClosed,
    ] {
        let headers = crate::page(page, StatusCode::OK).headers().clone();
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY), "{page:?}");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{page:?}");
    }
}

#[tokio::test]
async fn every_asset_named_in_a_page_exists_and_can_be_cached() {
    let mut urls = std::collections::BTreeSet::new();
    for path in PAGES.into_iter().chain(["/docs/state"]) {
        let page = get(path).await.body;
        let named = page.split('"').filter(|text| text.starts_with("/assets/")).map(str::to_owned);
        urls.extend(named);
    }
    assert!(urls.len() > 15, "{urls:?}");
    for url in &urls {
        let answer = get(url).await;
        assert_eq!(answer.status, StatusCode::OK, "{url}");
        assert_eq!(answer.header(header::CACHE_CONTROL), "public, max-age=31536000, immutable", "{url}");
        let expected = match url.split('?').next().unwrap().rsplit('.').next().unwrap() {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("unknown asset type: {other}"),
        };
        assert_eq!(answer.header(header::CONTENT_TYPE), expected, "{url}");
    }
}

#[tokio::test]
async fn an_address_without_the_right_version_is_revalidated() {
    for path in ["/assets/counter.js", "/assets/counter.js?v=old", "/assets/counter.js?v="] {
        assert_eq!(get(path).await.header(header::CACHE_CONTROL), "no-cache", "{path}");
    }
}

#[tokio::test]
async fn a_client_with_the_current_version_gets_304() {
    for path in [pages::LESSON, "/assets/site.css"] {
        let etag = get(path).await.header(header::ETAG).to_owned();
        for held in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            let request =
                Request::get(path).header(header::IF_NONE_MATCH, &held).body(Body::empty()).unwrap();
            let answer = send(request).await;
            assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{path} {held}");
            assert_eq!(answer.body, "");
        }
        let request =
            Request::get(path).header(header::IF_NONE_MATCH, "\"other\"").body(Body::empty()).unwrap();
        assert_eq!(send(request).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn only_listed_assets_are_served() {
    for path in [
        "/assets/",
        "/assets",
        "/assets/none.js",
        "/assets/../Cargo.toml",
        "/assets/..%2fCargo.toml",
        "/assets/%2e%2e/Cargo.toml",
        "/assets/%2e%2e%2fCargo.toml",
        "/assets/..%5cCargo.toml",
        "/assets/%252e%252e%252fCargo.toml",
        "/assets/counter.js%00",
        "/assets/./counter.js",
        "/assets//counter.js",
        "/assets/counter.js/",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
    ] {
        let answer = get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(!answer.body.contains("[package]"), "{path}");
    }
    // Bytes that are not UTF-8 are rejected before the lookup.
    assert_eq!(get("/assets/%ff").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_404_page_leads_on() {
    let answer = get("/nowhere").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert!(answer.body.contains("href=\"/learn/websocket\""));
}

#[tokio::test]
async fn posting_to_a_page_is_rejected() {
    let answer = send(Request::post(pages::LESSON).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn line_of_skips_comments() {
    let source = "// on_open is below\nuse x;\n    .on_open(|c| {})\n";
    assert_eq!(pages::line_of(source, "on_open"), Some(3));
    assert_eq!(pages::line_of(source, "on_close"), None);
}

/// The lesson shows this file, the documentation includes it as a block, and the proxy tests run that block.
#[test]
fn there_is_one_nginx_configuration() {
    let file = include_str!("../assets/nginx.conf");
    assert!(include_str!("../../docs/deploy.md").contains(&format!("```nginx\n{file}```\n")));
}

#[tokio::test]
async fn a_client_that_accepts_gzip_gets_it() {
    use std::io::Read as _;

    let ask = async |path: &str, coding: &str, held: &str| {
        let request =
            Request::get(path).header(header::ACCEPT_ENCODING, coding).header(header::IF_NONE_MATCH, held);
        let (parts, body) =
            router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    for path in [pages::LESSON, "/assets/site.css", "/docs/rooms"] {
        let plain = get(path).await;
        let sent = ask(path, "", "").await.1;
        assert_eq!(plain.header(header::VARY), "accept-encoding", "{path}");
        assert!(!plain.headers.contains_key(header::CONTENT_ENCODING), "{path}");
        for takes in ["gzip", "br, GZIP;q=0.5", "deflate,gzip, *"] {
            let (parts, body) = ask(path, takes, "").await;
            assert_eq!(parts.headers[header::CONTENT_ENCODING], "gzip", "{path} {takes}");
            assert!(body.len() < sent.len() / 2, "{path}");
            let mut inflated = String::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut inflated).unwrap();
            assert_eq!(inflated.as_bytes(), sent, "{path}");
            let etag = parts.headers[header::ETAG].to_str().unwrap();
            assert_ne!(etag, plain.header(header::ETAG), "each encoding needs its own ETag");
            assert_eq!(ask(path, takes, etag).await.0.status, StatusCode::NOT_MODIFIED);
        }
        for refuses in ["", "identity", "gzip;q=0", "br, gzip ; q=0.0", "xgzip"] {
            let (parts, body) = ask(path, refuses, "").await;
            assert!(!parts.headers.contains_key(header::CONTENT_ENCODING), "{path} {refuses}");
            assert_eq!(body, sent, "{path}");
        }
    }
}
