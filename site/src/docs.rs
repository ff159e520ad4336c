//! The repository's documentation as pages under `/docs`, rendered once on first use.

mod contents;
mod links;
mod markdown;
mod pictures;
mod table;

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

/// The path of the document index.
pub(crate) const INDEX: &str = "/docs";

/// The routes of the documentation.
pub(crate) fn router() -> Router {
    Router::new()
        .route(INDEX, get(index))
        .route("/docs/", get(|| async { Redirect::permanent("../docs") }))
        .route("/docs/{name}", get(page))
        .route("/docs/images/{name}", get(pictures::serve))
}

/// One document.
struct Page {
    /// The last segment of its address.
    name: String,
    /// The navigation group that lists it.
    group: &'static str,
    /// One line for the index.
    description: &'static str,
    document: Document,
}

impl Page {
    fn href(&self) -> String {
        format!("{INDEX}/{}", self.name)
    }

    /// Returns the headings listed in its table of contents.
    fn sections(&self) -> impl Iterator<Item = &markdown::Heading> {
        self.document.headings.iter().filter(|heading| heading.level == 2)
    }

    /// Returns a short title for lists: the part before a colon.
    fn label(&self) -> &str {
        self.document.title.split(": ").next().unwrap_or_default()
    }
}

/// All documents, in reading order.
static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    let page = |entry: contents::Entry| Page {
        name: contents::slug(entry.path),
        group: entry.group,
        description: entry.description,
        document: markdown::render(entry.path, entry.text),
    };
    contents::in_order().map(page).collect()
});

/// A group of the navigation.
struct Group {
    name: &'static str,
    pages: Vec<&'static Page>,
}

/// Returns the groups that have pages.
fn groups() -> Vec<Group> {
    let in_group = |name| PAGES.iter().filter(|page| page.group == name).collect();
    let groups = contents::GROUPS.iter().map(|(name, _)| Group { name, pages: in_group(*name) });
    groups.filter(|group| !group.pages.is_empty()).collect()
}

#[derive(Template)]
#[template(path = "doc.html")]
struct DocPage {
    page: &'static Page,
    /// All documents, for the navigation.
    groups: Vec<Group>,
    previous: Option<&'static Page>,
    next: Option<&'static Page>,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct IndexPage {
    groups: Vec<Group>,
    /// Whether this page replaces one that does not exist.
    missing: bool,
    /// The public address of the repository, if the workspace names one.
    repository: Option<&'static str>,
    /// The public address of the API reference, if the workspace names one.
    reference: Option<&'static str>,
}

impl IndexPage {
    fn new(missing: bool) -> Self {
        let (repository, reference) = (option_env!("SITE_REPOSITORY"), option_env!("SITE_DOCUMENTATION"));
        Self { groups: groups(), missing, repository, reference }
    }
}

static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let at = |index: Option<usize>| index.and_then(|index| PAGES.get(index));
    let page = |(index, page): (usize, &'static Page)| {
        let (previous, next) = (at(index.checked_sub(1)), at(Some(index + 1)));
        render(&DocPage { page, groups: groups(), previous, next }, &page.href())
    };
    PAGES.iter().enumerate().map(page).collect()
});

static INDEX_PAGE: LazyLock<Rendered> = LazyLock::new(|| render(&IndexPage::new(false), INDEX));

static MISSING_PAGE: LazyLock<Rendered> = LazyLock::new(|| render(&IndexPage::new(true), "/docs/{name}"));

async fn index(headers: HeaderMap) -> Response {
    serve(&headers, &INDEX_PAGE)
}

/// Serves a document. Redirects from its file name.
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
