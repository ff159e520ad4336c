//! Highlights source code on the server, well enough for a page. It is a scanner, not a parser: it recognizes comments,
//! strings, keywords and a few shapes of names, and never loses or changes a character.

use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    JavaScript,
    /// Configuration files: only comments, which begin with `#`, are recognized.
    Configuration,
}

const RUST: &[&str] = &[
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false",
    "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return",
    "self", "Self", "static", "struct", "super", "trait", "true", "type", "unsafe", "use", "where", "while",
];

const JAVASCRIPT: &[&str] = &[
    "async",
    "await",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "continue",
    "default",
    "delete",
    "do",
    "else",
    "export",
    "extends",
    "false",
    "finally",
    "for",
    "function",
    "if",
    "import",
    "in",
    "instanceof",
    "let",
    "new",
    "null",
    "of",
    "return",
    "static",
    "super",
    "switch",
    "this",
    "throw",
    "true",
    "try",
    "typeof",
    "undefined",
    "var",
    "while",
    "yield",
];

/// Returns `source` as escaped HTML, each line in a `span` with the id `{prefix}-{number}`.
pub(crate) fn highlight(source: &str, language: Language, prefix: &str) -> String {
    let mut html = String::with_capacity(source.len() * 3);
    let mut number = 1;
    let mut open_line = |html: &mut String| {
        let _ = write!(html, "<span class=\"line\" id=\"{prefix}-{number}\">");
        number += 1;
    };
    let source = source.trim_end_matches('\n');
    let mut rest = source;
    open_line(&mut html);
    while !rest.is_empty() {
        let (length, class) = token(rest, language);
        let (text, after) = rest.split_at(length);
        rest = after;
        // A token can span lines. Its class is repeated on each, so that every line is one element.
        for (index, part) in text.split('\n').enumerate() {
            if index > 0 {
                html.push_str("</span>\n");
                open_line(&mut html);
            }
            match class {
                Some(class) if !part.is_empty() => {
                    let _ = write!(html, "<span class=\"{class}\">");
                    escape(part, &mut html);
                    html.push_str("</span>");
                }
                _ => escape(part, &mut html),
            }
        }
    }
    html.push_str("</span>\n");
    html
}

/// Appends `text` to `html`, escaped.
pub(crate) fn escape(text: &str, html: &mut String) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
}

/// Returns the length in bytes and the class of the token at the start of `rest`, which is not empty.
fn token(rest: &str, language: Language) -> (usize, Option<&'static str>) {
    let rust = language == Language::Rust;
    let first = rest.chars().next().unwrap_or_default();
    if language == Language::Configuration {
        return match first {
            '#' => (rest.find('\n').unwrap_or(rest.len()), Some("tok-comment")),
            '"' => (quoted(rest, '"'), Some("tok-string")),
            _ => (rest.find(['#', '"']).unwrap_or(rest.len()), None),
        };
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Some("tok-comment"));
    }
    if rest.starts_with("/*") {
        return (block_comment(rest, rust), Some("tok-comment"));
    }
    if rust && let Some(length) = raw_string(rest) {
        return (length, Some("tok-string"));
    }
    match first {
        '"' => (quoted(rest, '"'), Some("tok-string")),
        '\'' if rust => quote_in_rust(rest),
        '\'' | '`' => (quoted(rest, first), Some("tok-string")),
        '#' if rust && (rest.starts_with("#[") || rest.starts_with("#![")) => {
            (rest.find(']').map_or(rest.len(), |end| end + 1), Some("tok-attribute"))
        }
        c if c.is_ascii_digit() => (word(rest), Some("tok-number")),
        c if c.is_alphabetic() || c == '_' || c == '$' => {
            let length = word(rest);
            (length, name_class(&rest[..length], &rest[length..], language))
        }
        c => (c.len_utf8(), None),
    }
}

fn word(rest: &str) -> usize {
    rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len())
}

fn name_class(name: &str, after: &str, language: Language) -> Option<&'static str> {
    let keywords = if language == Language::Rust { RUST } else { JAVASCRIPT };
    if keywords.contains(&name) {
        Some("tok-keyword")
    } else if name.starts_with(char::is_uppercase) {
        Some("tok-type")
    } else if after.starts_with('(')
        || (language == Language::Rust && after.starts_with('!') && !after.starts_with("!="))
    {
        Some("tok-call")
    } else {
        None
    }
}

/// Returns the length of a string in `quote`s, with escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return index + c.len_utf8();
        }
    }
    rest.len()
}

/// Reads `'a'`, `'
/// '` or the lifetime `'a`.
fn quote_in_rust(rest: &str) -> (usize, Option<&'static str>) {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => (quoted(rest, '\''), Some("tok-string")),
        _ => (1 + word(&rest[1..]), Some("tok-type")),
    }
}

/// Returns the length of `r"…"`, `br#"…"#` and the like, or of a prefixed plain string such as `b"…"` or `c"…"`.
fn raw_string(rest: &str) -> Option<usize> {
    let plain = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    if plain.len() < rest.len() && plain.starts_with('"') {
        return Some(1 + quoted(plain, '"'));
    }
    let body = plain.strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len() + hashes + 1;
    Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// Returns the length of a block comment. Rust's nest.
fn block_comment(rest: &str, nests: bool) -> usize {
    let mut depth = 1;
    let mut at = 2;
    while depth > 0 {
        let close = rest[at..].find("*/").map(|index| at + index);
        let open = if nests { rest[at..].find("/*").map(|index| at + index) } else { None };
        match (open, close) {
            (_, None) => return rest.len(),
            (Some(open), Some(close)) if open < close => (depth, at) = (depth + 1, open + 2),
            (_, Some(close)) => (depth, at) = (depth - 1, close + 2),
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text that a reader copies.
    fn text(html: &str) -> String {
        let mut out = String::new();
        let mut tag = false;
        for c in html.chars() {
            match c {
                '<' => tag = true,
                '>' => tag = false,
                c if !tag => out.push(c),
                _ => {}
            }
        }
        out.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&")
    }

    #[test]
    fn copied_text_equals_the_source() {
        for (source, language) in [
            (crate::pages::COUNTER_RS, Language::Rust),
            (crate::assets::COUNTER_JS, Language::JavaScript),
            (include_str!("highlight.rs"), Language::Rust),
            (include_str!("../assets/page.js"), Language::JavaScript),
        ] {
            assert_eq!(text(&highlight(source, language, "x")), source);
        }
    }

    #[test]
    fn unterminated_tokens_end_with_the_text() {
        for source in
            ["", "\"", "'", "/*", "/* /* */", "r#\"", "b\"", "#[", "'é", "\\", "\"\\", "é", "0", "r#", "br"]
        {
            for language in [Language::Rust, Language::JavaScript] {
                assert_eq!(text(&highlight(source, language, "x")), format!("{source}\n"), "{source:?}");
            }
        }
    }

    fn classes(source: &str, language: Language) -> Vec<(&str, Option<&'static str>)> {
        let mut rest = source;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (length, class) = token(rest, language);
            if class.is_some() {
                found.push((&rest[..length], class));
            }
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn rust_tokens_are_recognized() {
        assert_eq!(
            classes(
                "fn go<'a>(x: &'a str) { say!('\\'', br#\"\"q\"#, 1_0u8) /* a /* b */ c */ } // <end>",
                Language::Rust
            ),
            [
                ("fn", Some("tok-keyword")),
                ("'a", Some("tok-type")),
                ("'a", Some("tok-type")),
                ("say", Some("tok-call")),
                ("'\\''", Some("tok-string")),
                ("br#\"\"q\"#", Some("tok-string")),
                ("1_0u8", Some("tok-number")),
                ("/* a /* b */ c */", Some("tok-comment")),
                ("// <end>", Some("tok-comment")),
            ]
        );
    }

    #[test]
    fn javascript_tokens_are_recognized() {
        assert_eq!(
            classes("const a = new Error(`x ${'y'}`); // it's", Language::JavaScript),
            [
                ("const", Some("tok-keyword")),
                ("new", Some("tok-keyword")),
                ("Error", Some("tok-type")),
                ("`x ${'y'}`", Some("tok-string")),
                ("// it's", Some("tok-comment")),
            ]
        );
    }

    #[test]
    fn a_multiline_token_is_highlighted_on_each_line() {
        assert_eq!(
            highlight("/*<\n*/", Language::Rust, "s"),
            "<span class=\"line\" id=\"s-1\"><span class=\"tok-comment\">/*&lt;</span></span>\n\
             <span class=\"line\" id=\"s-2\"><span class=\"tok-comment\">*/</span></span>\n"
        );
    }
}
