//! The documentation of the repository, as pages under `/docs`: rendered once, when the first of them is asked for.

mod contents;
mod links;
mod markdown;
mod pictures;

use std::sync::LazyLock;

use askama::Template;
use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};

use self::markdown::Document;
use crate::pages::{Page as Rendered, render, serve};

/// Where the list of all documents is.
pub(crate) const INDEX: &str = "/docs";

/// The pages of the documentation.
pub(crate) fn router() -> Router {
    Router::new()
        .route(INDEX, get(index))
        .route("/docs/", get(|| async { Redirect::permanent("../docs") }))
        .route("/docs/{name}", get(page))
        .route("/docs/images/{name}", get(pictures::serve))
}

/// One document.
struct Page {
    /// The last part of its address.
    name: String,
    /// The group that it is in.
    group: &'static str,
    /// What it says.
    document: Document,
}

impl Page {
    /// Its address.
    fn href(&self) -> String {
        format!("{INDEX}/{}", self.name)
    }

    /// The headings that its table of contents shows.
    fn sections(&self) -> impl Iterator<Item = &markdown::Heading> {
        self.document.headings.iter().filter(|heading| heading.level == 2)
    }

    /// Its title in a list of many: what stands before a colon.
    fn label(&self) -> &str {
        self.document.title.split(": ").next().unwrap_or_default()
    }

    /// What it is about, in a sentence.
    fn summary(&self) -> &str {
        let text = &self.document.summary;
        text.find(". ").map_or(text.as_str(), |end| &text[..=end])
    }
}

/// All documents, in their order.
static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    let page = |(group, path, text)| Page {
        name: contents::slug(path),
        group,
        document: markdown::render(path, text),
    };
    contents::in_order().map(page).collect()
});

/// A group of the navigation.
struct Group {
    /// What it is called.
    name: &'static str,
    /// The pages in it.
    pages: Vec<&'static Page>,
}

/// The groups that have pages.
fn groups() -> Vec<Group> {
    let in_group = |name| PAGES.iter().filter(|page| page.group == name).collect();
    let groups = contents::GROUPS.iter().map(|(name, _)| Group { name, pages: in_group(*name) });
    groups.filter(|group| !group.pages.is_empty()).collect()
}

#[derive(Template)]
#[template(path = "doc.html")]
struct DocPage {
    /// The document itself.
    page: &'static Page,
    /// All documents, for the navigation.
    groups: Vec<Group>,
    /// The one before it.
    previous: Option<&'static Page>,
    /// The one after it.
    next: Option<&'static Page>,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct IndexPage {
    /// All documents.
    groups: Vec<Group>,
    /// Whether this stands in the place of a page that is not there.
    missing: bool,
}

static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let at = |index: Option<usize>| index.and_then(|index| PAGES.get(index));
    let page = |(index, page): (usize, &'static Page)| {
        let (previous, next) = (at(index.checked_sub(1)), at(Some(index + 1)));
        render(&DocPage { page, groups: groups(), previous, next }, &page.href())
    };
    PAGES.iter().enumerate().map(page).collect()
});

static INDEX_PAGE: LazyLock<Rendered> =
    LazyLock::new(|| render(&IndexPage { groups: groups(), missing: false }, INDEX));

static MISSING_PAGE: LazyLock<Rendered> =
    LazyLock::new(|| render(&IndexPage { groups: groups(), missing: true }, "/docs/{name}"));

async fn index(headers: HeaderMap) -> Response {
    serve(&headers, &INDEX_PAGE)
}

/// One document; under its file's name it is found as well.
async fn page(Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Some(index) = PAGES.iter().position(|page| page.name == name) {
        return serve(&headers, &RENDERED[index]);
    }
    match name.strip_suffix(".md").map(str::to_lowercase).filter(|name| contents::path_of(name).is_some()) {
        Some(name) => Redirect::permanent(&name).into_response(),
        None => (StatusCode::NOT_FOUND, Html(MISSING_PAGE.0.as_str())).into_response(),
    }
}

#[cfg(test)]
mod tests;
