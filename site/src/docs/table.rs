//! Renders tables for every width: columns that fit their text, and labels for the cells where a narrow screen shows each
//! row as a list.

use pulldown_cmark::{Alignment, Event, Tag, TagEnd, html::push_html};

use super::markdown::{escaped, plain};

/// The longest text, in characters, that a cell shows on one line.
const BRIEF: usize = 24;
/// The longest text of a column that needs no more than a narrow one.
const NARROW: usize = 60;
/// The longest header that fits above a brief column.
const SHORT_HEADER: usize = 12;

type Cell<'a> = Vec<Event<'a>>;

/// The number of columns from which all are narrow, so that they fit a laptop's screen.
const MANY: usize = 6;

/// Renders a table. pulldown-cmark would align with inline styles, which the page's policy forbids.
pub(super) fn render(columns: &[Alignment], inner: Vec<Event<'_>>) -> String {
    let mut rows = cells(inner).into_iter();
    let header = rows.next().unwrap_or_default();
    let body: Vec<Vec<Cell<'_>>> = rows.collect();
    let labels: Vec<String> = header.iter().map(|cell| escaped(&plain(cell))).collect();
    let column = |index: usize| {
        let texts = body.iter().filter_map(|row| row.get(index));
        let longest = texts.map(|cell| plain(cell).chars().count()).max().unwrap_or_default();
        let width = if longest <= BRIEF {
            "brief"
        } else if longest <= NARROW {
            "narrow"
        } else {
            "wide"
        };
        let right = if columns.get(index) == Some(&Alignment::Right) { " right" } else { "" };
        format!("{width}{right}")
    };
    let classes: Vec<String> = (0..header.len()).map(column).collect();

    let many = if header.len() >= MANY { " many" } else { "" };
    let mut html = format!("<table class=\"stack{many}\">\n<thead><tr>");
    for ((cell, label), class) in header.into_iter().zip(&labels).zip(&classes) {
        // A header cell without text is not a header for a screen reader.
        let (name, scope) = if label.is_empty() { ("td", "") } else { ("th", " scope=\"col\"") };
        let long = if label.chars().count() > SHORT_HEADER { " long" } else { "" };
        html.push_str(&format!("<{name}{scope} class=\"{class}{long}\">"));
        push_html(&mut html, cell.into_iter());
        html.push_str(&format!("</{name}>"));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in body {
        html.push_str("<tr>");
        for (index, cell) in row.into_iter().enumerate() {
            let is_name = index == 0 && !cell.is_empty();
            let (name, scope) = if is_name { ("th", " scope=\"row\"") } else { ("td", "") };
            let class = classes.get(index).map_or("", String::as_str);
            let label = labels.get(index).filter(|label| index > 0 && !label.is_empty());
            let label = label.map(|label| format!(" data-label=\"{label}\"")).unwrap_or_default();
            html.push_str(&format!("<{name}{scope} class=\"{class}\"{label}>"));
            push_html(&mut html, cell.into_iter().map(breakable));
            html.push_str(&format!("</{name}>"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n");
    html
}

/// Returns the cells of each row, the header's first.
fn cells(inner: Vec<Event<'_>>) -> Vec<Vec<Cell<'_>>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), Vec::new());
    for event in inner {
        match event {
            Event::Start(Tag::TableHead | Tag::TableRow | Tag::TableCell) => {}
            Event::End(TagEnd::TableCell) => row.push(std::mem::take(&mut cell)),
            Event::End(TagEnd::TableHead | TagEnd::TableRow) => rows.push(std::mem::take(&mut row)),
            event => cell.push(event),
        }
    }
    rows
}

/// Lets code break after a space, and after `_`, `-` and `/` within a name. Styles prevent all other breaks.
fn breakable(event: Event<'_>) -> Event<'_> {
    let Event::Code(code) = event else { return event };
    let mut html = String::from("<code>");
    let mut part = String::new();
    let mut letters = code.chars().peekable();
    let mut before = None;
    while let Some(letter) = letters.next() {
        part.push(letter);
        let after = letters.peek().copied();
        let may_break = match letter {
            ' ' => after.is_some(),
            '/' => before.is_some_and(|before| before != ' ') && after.is_some_and(|after| after != '/'),
            '_' | '-' => [before, after].iter().all(|side| side.is_some_and(char::is_alphanumeric)),
            _ => false,
        };
        if may_break {
            html.push_str(&escaped(&part));
            html.push_str("<wbr>");
            part.clear();
        }
        before = Some(letter);
    }
    html.push_str(&escaped(&part));
    html.push_str("</code>");
    Event::InlineHtml(html.into())
}

#[cfg(test)]
mod tests {
    use super::super::markdown::render;

    fn html(markdown: &str) -> String {
        render("docs/x.md", markdown).html
    }

    #[test]
    fn code_in_a_cell_breaks_only_within_names() {
        let cell = |code: &str| {
            let page = html(&format!("| a |\n|---|\n| `{code}` |\n"));
            page.split("<code>").nth(1).and_then(|rest| rest.split("</code>").next()).map(str::to_owned)
        };
        for (code, shown) in [
            ("MAX_OPEN", "MAX_<wbr>OPEN"),
            ("--base-path /rt", "--base-<wbr>path <wbr>/rt"),
            ("redis://a/b", "redis://<wbr>a/<wbr>b"),
            ("a->b<c>", "a-&gt;b&lt;c&gt;"),
            ("_x_", "_x_"),
        ] {
            assert_eq!(cell(code).as_deref(), Some(shown), "{code}");
        }
    }

    #[test]
    fn each_cell_has_the_label_of_its_column() {
        let page = html("| | size & <unit> |\n|---|---:|\n| **one** | 1 |\n| | 2 |\n");
        assert!(
            page.contains("<td class=\"brief\"></td><th scope=\"col\" class=\"brief right long\">"),
            "{page}"
        );
        let label = "data-label=\"size &amp; &lt;unit&gt;\"";
        let row = format!(
            "<tr><th scope=\"row\" class=\"brief\"><strong>one</strong></th><td class=\"brief right\" {label}>1</td></tr>"
        );
        assert!(page.contains(&row), "{page}");
        assert!(
            page.contains(&format!(
                "<tr><td class=\"brief\"></td><td class=\"brief right\" {label}>2</td></tr>"
            )),
            "{page}"
        );
    }

    #[test]
    fn the_longest_text_of_a_column_sets_its_width() {
        let long = "word ".repeat(20);
        let page =
            html(&format!("| a | b | c |\n|---|---|---|\n| 1 | one two three four five six | {long} |\n"));
        for class in ["brief", "narrow", "wide"] {
            assert_eq!(page.matches(&format!("class=\"{class}\"")).count(), 2, "{page}");
        }
    }
}
