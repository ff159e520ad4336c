use std::collections::{BTreeMap, HashSet};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::{INDEX, PAGES, contents};
use crate::{address, router};

async fn get(path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (parts, body) = router().oneshot(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    (parts.status, parts.headers, address::from_root(&body, path)) // absolute, so that tests can request them
}

/// Returns every documentation page as served, by its address.
async fn all() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let addresses = PAGES.iter().map(super::Page::href).chain([INDEX.to_owned()]);
    for address in addresses {
        let (status, headers, body) = get(&address).await;
        assert_eq!(status, StatusCode::OK, "{address}");
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8", "{address}");
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache", "{address}");
        assert!(headers.contains_key(header::ETAG), "{address}");
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self'"));
        pages.insert(address, body);
    }
    pages
}

/// Returns the values of an attribute, as written.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let mark = format!(" {name}=\"");
    page.split(mark.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_document_is_listed_once() {
    let placed: Vec<&str> =
        contents::GROUPS.iter().flat_map(|(_, names)| names.iter().map(|(name, _)| *name)).collect();
    for (path, _) in contents::FILES {
        let count = placed.iter().filter(|name| **name == contents::slug(path)).count();
        assert_eq!(count, 1, "{path} must be listed once in GROUPS of site/src/docs/contents.rs");
    }
    assert_eq!(PAGES.len(), contents::FILES.len());
}

#[tokio::test]
async fn the_index_describes_each_document_in_one_sentence() {
    let (_, _, index) = get(INDEX).await;
    for page in PAGES.iter() {
        let text = page.description;
        assert!(text.ends_with('.') && !text.contains(". ") && (20..=100).contains(&text.len()), "{text}");
        assert!(index.contains(&format!("<p>{text}</p>")), "{} is described", page.name);
    }
    assert!(index.contains("API reference"), "{index}");
}

#[tokio::test]
async fn every_link_and_anchor_resolves() {
    let pages = all().await;
    let ids: BTreeMap<&str, HashSet<&str>> = pages
        .iter()
        .map(|(address, page)| (address.as_str(), attributes(page, "id").into_iter().collect()))
        .collect();
    for (address, page) in &pages {
        for link in attributes(page, "href") {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((link, None), |(path, id)| (path, Some(id)));
            let path = if path.is_empty() { address } else { path };
            if let Some(anchor) = anchor {
                let known = ids.get(path).is_some_and(|ids| ids.contains(anchor));
                assert!(known, "{address} links to {link}, but no element has that id");
            } else {
                let status = get(path).await.0;
                assert!(
                    status.is_success() || status.is_redirection(),
                    "{address} links to {link}: {status}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_page_has_one_h1_and_unique_ids() {
    for (address, page) in all().await {
        assert_eq!(page.matches("<h1").count(), 1, "{address}");
        let ids = attributes(&page, "id");
        let unique: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "{address} has a duplicate id: {ids:?}");
    }
}

#[tokio::test]
async fn nothing_is_inline_or_loaded_from_elsewhere() {
    for (address, page) in all().await {
        assert!(!page.contains("<style") && !page.contains(" style="), "{address}");
        assert!(!page.contains("<iframe") && !page.contains("<!--"), "{address}");
        for picture in attributes(&page, "src").iter().chain(&attributes(&page, "srcset")) {
            assert!(
                picture.starts_with("/assets/") || picture.starts_with("/docs/images/"),
                "{address}: {picture}"
            );
        }
        for script in page.split("<script").skip(1) {
            assert!(script.contains("src=\"/assets/"), "{address}: {script}");
        }
    }
}

#[test]
fn hidden_lines_of_rust_blocks_are_not_shown() {
    for (contents::Entry { path, text, .. }, page) in contents::in_order().zip(PAGES.iter()) {
        let mut in_rust = false;
        for line in text.lines() {
            match line.trim_start() {
                fence if fence.starts_with("```") => in_rust = !in_rust && fence.starts_with("```rust"),
                // Long enough not to occur elsewhere by chance.
                hidden if in_rust && hidden.starts_with("# ") && hidden.len() > 24 => {
                    let text = super::markdown::render(path, &format!("`{hidden}`")).html;
                    let text = text.trim().trim_start_matches("<p><code>").trim_end_matches("</code></p>");
                    assert!(!page.document.html.contains(text), "{path} shows {hidden}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn repository_files_named_in_pages_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in PAGES.iter() {
        let named = page.document.html.split("<small>(").skip(1);
        for path in named.filter_map(|rest| rest.split(" in the repository").next()) {
            assert!(root.join(path).exists(), "{} links to {path}, which does not exist", page.href());
        }
    }
}

#[tokio::test]
async fn pages_link_to_the_next_and_the_previous() {
    for pair in PAGES.windows(2) {
        let (first, second) = (get(&pair[0].href()).await.2, get(&pair[1].href()).await.2);
        assert!(first.contains(&format!("<link rel=\"next\" href=\"{}\">", pair[1].href())));
        assert!(second.contains(&format!("<a rel=\"prev\" href=\"{}\">", pair[0].href())));
    }
}

#[tokio::test]
async fn an_unknown_document_returns_the_list() {
    for path in ["/docs/none", "/docs/..%2fCargo.toml", "/docs/crate", "/docs/none.md", "/docs/%00"] {
        let (status, headers, body) = get(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
        assert!(body.contains("href=\"/docs/state\""), "{path}");
    }
    assert_eq!(get("/docs/a/b").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_file_name_redirects_to_its_page() {
    for (path, expected) in
        [("/docs/state.md", "state"), ("/docs/ARCHITECTURE.md", "architecture"), ("/docs/", "../docs")]
    {
        let (status, headers, _) = get(path).await;
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT, "{path}");
        assert_eq!(headers[header::LOCATION], expected, "{path}");
    }
}

#[tokio::test]
async fn every_picture_is_cached_forever_under_its_version() {
    let mut seen = 0;
    for (address, page) in all().await {
        let pictures = page.split("<picture>").skip(1).filter_map(|rest| rest.split("</picture>").next());
        for picture in pictures {
            for href in attributes(picture, "src").into_iter().chain(attributes(picture, "srcset")) {
                let request = Request::get(href).body(Body::empty()).unwrap();
                let (parts, body) = router().oneshot(request).await.unwrap().into_parts();
                assert_eq!(parts.status, StatusCode::OK, "{href} of {address}");
                assert_eq!(parts.headers[header::CONTENT_TYPE], "image/png");
                assert!(
                    parts.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"),
                    "{href}"
                );
                assert!(body.collect().await.unwrap().to_bytes().starts_with(b"\x89PNG\r\n"), "{href}");
                let again = Request::get(href).header(header::IF_NONE_MATCH, &parts.headers[header::ETAG]);
                let again = router().oneshot(again.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{href}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} pictures");
    assert_eq!(get("/docs/images/none.png").await.0, StatusCode::NOT_FOUND);
}
