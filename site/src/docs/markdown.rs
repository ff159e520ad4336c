//! Converts Markdown to the HTML of a page. Raw HTML in a document is shown as text, never passed through.

use std::{collections::HashSet, mem};

use pulldown_cmark::{
    Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html::push_html,
};

use super::{
    links::{Target, resolve},
    pictures, table,
};
use crate::highlight::{Language, escape, highlight};

/// A rendered document.
pub(super) struct Document {
    /// The text of its first heading.
    pub(super) title: String,
    pub(super) head: String,
    /// Everything after the first heading.
    pub(super) html: String,
    /// The headings, for the table of contents.
    pub(super) headings: Vec<Heading>,
}

/// A heading that can be linked to.
pub(super) struct Heading {
    /// 1 for the title, 2 for a section, 3 for a subsection.
    pub(super) level: u8,
    pub(super) id: String,
    pub(super) text: String,
}

/// Renders the document at `path`, a path from the repository root.
pub(super) fn render(path: &str, text: &str) -> Document {
    let mut writer = Writer { path, ..Writer::default() };
    let mut events = Parser::new_ext(text, Options::ENABLE_TABLES);
    while let Some(event) = events.next() {
        writer.take(event, &mut events);
    }
    writer.flush();
    let title = writer.headings.iter().find(|heading| heading.level == 1);
    Document {
        title: title.map(|heading| heading.text.clone()).unwrap_or_default(),
        head: writer.head,
        html: writer.html,
        headings: writer.headings,
    }
}

/// The output so far, and the state of the elements still open.
#[derive(Default)]
struct Writer<'a> {
    /// The document's path, against which links are resolved.
    path: &'a str,
    /// The first heading, as HTML.
    head: String,
    /// The finished HTML.
    html: String,
    /// Events not yet written.
    waiting: Vec<Event<'a>>,
    headings: Vec<Heading>,
    /// Heading ids in use, so that each stays unique.
    ids: HashSet<String>,
    /// The closing HTML of each open link.
    open_links: Vec<String>,
    /// The open picture: its link, and the description so far.
    picture: Option<(String, String)>,
    /// The number of code blocks so far.
    listings: usize,
    /// The number of tables so far.
    tables: usize,
}

impl<'a> Writer<'a> {
    /// Handles one event. For an element that is written as a whole, also consumes its other events from `rest`.
    fn take(&mut self, event: Event<'a>, rest: &mut impl Iterator<Item = Event<'a>>) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                let inner = self.until(rest, |end| matches!(end, TagEnd::Heading(_)));
                self.heading(level, inner);
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let inner = self.until(rest, |end| *end == TagEnd::CodeBlock);
                self.listing(&kind, &plain(&inner));
            }
            Event::Start(Tag::Table(columns)) => {
                let inner = self.until(rest, |end| *end == TagEnd::Table);
                self.table(&columns, inner);
            }
            event => {
                let event = self.safe(event);
                self.waiting.push(event);
            }
        }
    }

    /// Returns the events up to the end of an element, made safe.
    fn until(
        &mut self,
        rest: &mut impl Iterator<Item = Event<'a>>,
        is_end: impl Fn(&TagEnd) -> bool,
    ) -> Vec<Event<'a>> {
        let mut inner = Vec::new();
        for event in rest {
            match event {
                Event::End(end) if is_end(&end) => break,
                event => inner.push(self.safe(event)),
            }
        }
        inner
    }

    /// Returns the event with links rewritten, and with raw HTML converted to text.
    fn safe(&mut self, event: Event<'a>) -> Event<'a> {
        if let Some((_, alt)) = &mut self.picture {
            match event {
                Event::End(TagEnd::Image) => return self.picture(),
                Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) => alt.push_str(&text),
                _ => {}
            }
            return nothing();
        }
        match event {
            Event::Html(html) | Event::InlineHtml(html) => Event::Text(html),
            Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
            Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
            Event::Start(Tag::Link { dest_url, .. }) => self.open_link(&dest_url),
            Event::End(TagEnd::Link) => Event::InlineHtml(self.open_links.pop().unwrap_or_default().into()),
            Event::Start(Tag::Image { dest_url, .. }) => {
                self.picture = Some((dest_url.into_string(), String::new()));
                nothing()
            }
            event => event,
        }
    }

    /// Returns the picture whose description is complete, or only the description if the binary has no such picture.
    fn picture(&mut self) -> Event<'a> {
        let (link, alt) = self.picture.take().unwrap_or_default();
        let alt = escaped(&alt);
        let picture = match resolve(self.path, &link) {
            Target::Repository(path) => pictures::html(&path, &alt),
            Target::Address(_) => None,
        };
        Event::InlineHtml(picture.unwrap_or_else(|| format!("<em>{alt}</em>")).into())
    }

    /// Opens a link, and remembers its closing HTML.
    fn open_link(&mut self, link: &str) -> Event<'a> {
        let (start, end) = match resolve(self.path, link) {
            Target::Address(address) if address.starts_with("/docs/") || address.starts_with('#') => {
                (format!("<a href=\"{}\">", escaped(&address)), "</a>".to_owned())
            }
            // Only schemes that a browser can follow safely become links.
            Target::Address(address)
                if ["https:", "http:", "mailto:"].iter().any(|s| address.starts_with(s)) =>
            {
                (format!("<a rel=\"noopener\" href=\"{}\">", escaped(&address)), "</a>".to_owned())
            }
            Target::Address(_) => (String::new(), String::new()),
            Target::Repository(path) => {
                let path = escaped(&path);
                (
                    "<span class=\"in-repo\">".to_owned(),
                    format!(" <small>({path} in the repository)</small></span>"),
                )
            }
        };
        self.open_links.push(end);
        Event::InlineHtml(start.into())
    }

    /// Writes the pending events.
    fn flush(&mut self) {
        push_html(&mut self.html, mem::take(&mut self.waiting).into_iter());
    }

    fn heading(&mut self, level: HeadingLevel, inner: Vec<Event<'a>>) {
        self.flush();
        let text = plain(&inner);
        let id = self.unique(&text);
        let mut html = String::new();
        push_html(&mut html, inner.into_iter());
        let level = level as u8;
        match level {
            1 => self.head = format!("<h1 id=\"{id}\">{html}</h1>"),
            _ => {
                let heading = format!("<h{level} id=\"{id}\"><a href=\"#{id}\">{html}</a></h{level}>\n");
                self.html.push_str(&heading);
            }
        }
        self.headings.push(Heading { level, id, text });
    }

    /// Returns the anchor of a heading, in the format of code hosts. Repeated headings get the suffixes `-1`, `-2`, ….
    fn unique(&mut self, heading: &str) -> String {
        let anchor = anchor(heading);
        let mut unique = anchor.clone();
        let mut count = 0;
        while !self.ids.insert(unique.clone()) {
            count += 1;
            unique = format!("{anchor}-{count}");
        }
        unique
    }

    fn listing(&mut self, kind: &CodeBlockKind<'_>, code: &str) {
        self.flush();
        self.listings += 1;
        let number = self.listings;
        let info = match kind {
            CodeBlockKind::Fenced(info) => info,
            CodeBlockKind::Indented => "",
        };
        let tag = info.split([',', ' ']).next().unwrap_or_default();
        let (name, language) = named(tag);
        let prefix = format!("code-{number}");
        let html = match language {
            Some(Language::Rust) => highlight(&without_hidden_lines(code), Language::Rust, &prefix),
            Some(language) => highlight(code, language, &prefix),
            None => escaped(code),
        };
        self.html.push_str(&format!(
            "<figure class=\"listing\">\n<figcaption><span class=\"file\">{name}</span>\
             <button type=\"button\" class=\"copy\" data-copy=\"{prefix}\" hidden><span data-label>Copy</span>\
             <span class=\"unseen\"> listing {number}</span></button></figcaption>\n\
             <pre tabindex=\"0\" role=\"region\" aria-label=\"Listing {number}, {name}\">\
             <code id=\"{prefix}\">{html}</code></pre>\n</figure>\n"
        ));
    }

    /// Writes a table in a box that scrolls when the table is wider than the page.
    fn table(&mut self, columns: &[Alignment], inner: Vec<Event<'a>>) {
        self.flush();
        self.tables += 1;
        let (number, table) = (self.tables, table::render(columns, inner));
        self.html.push_str(&format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table {number}\">\n\
{table}</div>\n"
        ));
    }
}

/// Returns the display name of a language, and its highlighting, if any.
fn named(tag: &str) -> (&str, Option<Language>) {
    match tag {
        "rust" => ("Rust", Some(Language::Rust)),
        // Code that uses axum without Ripplecast, which this crate's doctests cannot compile.
        "axum" => ("Rust, without Ripplecast", Some(Language::Rust)),
        "js" | "javascript" => ("JavaScript", Some(Language::JavaScript)),
        "sh" | "bash" => ("Shell", None),
        "html" => ("HTML", None),
        "toml" => ("TOML", None),
        "yaml" => ("YAML", None),
        "json" => ("JSON", None),
        "nginx" => ("nginx", None),
        "haproxy" => ("HAProxy", None),
        "caddy" => ("Caddy", None),
        "ini" | "systemd" => ("Settings", None),
        "elixir" => ("Elixir", None),
        _ => ("Text", None),
    }
}

/// Removes the lines that rustdoc hides: those that begin with `# `.
fn without_hidden_lines(code: &str) -> String {
    let mut shown = String::with_capacity(code.len());
    for line in code.lines() {
        let start = line.trim_start();
        if start == "#" || start.starts_with("# ") {
            continue;
        }
        // `##` at the start of a line escapes a `#`.
        let line = if start.starts_with("##") { line.replacen("##", "#", 1) } else { line.to_owned() };
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
    shown.trim_matches('\n').to_owned() + "\n"
}

/// Returns the text of some events.
pub(super) fn plain(events: &[Event<'_>]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Text(part) | Event::Code(part) => text.push_str(part),
            Event::SoftBreak | Event::HardBreak => text.push(' '),
            _ => {}
        }
    }
    text
}

/// An event that writes nothing.
fn nothing<'a>() -> Event<'a> {
    Event::InlineHtml("".into())
}

/// Returns the anchor of a heading: lowercase, spaces as hyphens, and only letters, digits, `-` and `_`.
fn anchor(heading: &str) -> String {
    let letter = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    };
    heading.to_lowercase().chars().filter_map(letter).collect()
}

/// Escapes text for HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    escape(text, &mut html);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(markdown: &str) -> String {
        render("docs/x.md", markdown).html
    }

    #[test]
    fn raw_html_is_shown_as_text() {
        let page = html(
            "<script>alert(1)</script>\n\na <b onclick=\"x\">bold</b> word\n\n<!-- note -->\n\n| <i>a</i> |\n|---|\n| <img src=x> |\n",
        );
        for tag in ["<script", "<b ", "<!--", "<i>", "<img"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    }

    #[test]
    fn a_javascript_address_is_not_a_link() {
        for link in ["javascript:alert(1)", "data:text/html,x", "//elsewhere.example/x", "vbscript:x"] {
            let page = html(&format!("[text]({link})"));
            assert!(page.contains("text") && !page.contains("<a "), "{page}");
        }
    }

    #[test]
    fn a_picture_has_a_description_and_a_size() {
        let page = html("![two \"tabs\" & `code`](images/chat.png)");
        let found = page.contains("alt=\"two &quot;tabs&quot; &amp; code\" width=\"")
            && page.contains("/docs/images/chat.png?v=");
        assert!(found && page.contains("srcset=\"/docs/images/chat-dark.png?v="), "{page}");
        for none in ["images/none.png", "https://elsewhere.example/x.png", "../README.md"] {
            assert_eq!(html(&format!("![<b>]({none})")), "<p><em>&lt;b&gt;</em></p>\n");
        }
    }

    #[test]
    fn hidden_lines_are_removed_and_attributes_stay() {
        let page = html(
            "```rust,no_run\n# use std::io;\n#[derive(Debug)]\nstruct A;\n#\n## shown\n    # unseen_line\n```\n",
        );
        assert!(!page.contains("std::io") && !page.contains("unseen_line"), "{page}");
        assert!(page.contains("#[derive(Debug)]") && page.contains("# shown"), "{page}");
    }

    #[test]
    fn a_shell_comment_is_not_a_hidden_line() {
        assert!(html("```sh\n# a remark\ncargo run\n```\n").contains("# a remark"));
    }

    #[test]
    fn headings_have_the_anchors_of_code_hosts() {
        let document =
            render("docs/x.md", "# The `App`\n\nFirst *words*.\n\n## A & B: 1, 2?\n\n## A & B: 1, 2?\n");
        let ids: Vec<&str> = document.headings.iter().map(|heading| heading.id.as_str()).collect();
        assert_eq!(ids, ["the-app", "a--b-1-2", "a--b-1-2-1"]);
        assert_eq!(document.title, "The App");
        assert!(
            document.html.contains("<h2 id=\"a--b-1-2\"><a href=\"#a--b-1-2\">A &amp; B: 1, 2?</a></h2>")
        );
    }

    #[test]
    fn a_link_to_a_file_not_served_shows_its_path() {
        assert_eq!(
            html("[the counter](../examples/counter.rs)"),
            "<p><span class=\"in-repo\">the counter <small>(examples/counter.rs in the repository)</small></span></p>\n"
        );
    }

    #[test]
    fn tables_and_listings_can_be_scrolled_with_the_keyboard() {
        let page = html("| a |\n|--:|\n| b |\n\n```sh\nx\n```\n");
        assert!(page.contains("<th scope=\"col\" class=\"brief right\">a</th>"), "{page}");
        assert_eq!(page.matches("tabindex=\"0\" role=\"region\" aria-label=").count(), 2, "{page}");
    }
}
