//! Checks that every relative link in the workspace's Markdown files resolves: to an existing file or directory, and
//! to a heading or an anchor in it. External links are not checked, so no network is needed.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::files::{self, read};
use crate::{Result, Workspace};

/// Commands that the beginning of the README promises, each on its own line.
const PROMISED_COMMANDS: [&str; 2] = ["cargo run", "cargo xtask test"];

/// A link in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The line, counted from 1.
    pub(crate) line: usize,
    /// The target: `path`, `path#anchor` or `#anchor`.
    pub(crate) target: String,
}

/// Checks all files. Returns a short summary, or lists every broken link.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let files = files::find(&workspace.root, files::is_markdown)?;
    let mut checker = Checker { root: &workspace.root, anchors: HashMap::new() };
    let (mut count, mut faults) = (0, Vec::new());
    for file in &files {
        let name = file.strip_prefix(&workspace.root).unwrap_or(file).display();
        for link in links(&read(file)?) {
            count += 1;
            if let Err(why) = checker.follow(file, &link.target) {
                faults.push(format!("   {name}:{}: {}: {why}", link.line, link.target));
            }
        }
    }
    let readme = read(&workspace.at("README.md"))?;
    for command in PROMISED_COMMANDS {
        // A comment may follow the command, but not further arguments.
        let shows = |line: &str| {
            line.trim()
                .strip_prefix(command)
                .is_some_and(|rest| matches!(rest.trim_start().chars().next(), None | Some('#')))
        };
        if !readme.lines().any(shows) {
            faults.push(format!("   README.md: no line with the command `{command}`"));
        }
    }
    if faults.is_empty() {
        Ok(format!("{count} links in {} files", files.len()))
    } else {
        Err(format!("broken links or missing commands:\n{}", faults.join("\n")))
    }
}

/// Follows links, and caches the anchors of the files that they lead to.
struct Checker<'a> {
    /// The workspace's root, which links must not leave.
    root: &'a Path,
    /// The anchors of each Markdown file seen so far.
    anchors: HashMap<PathBuf, HashSet<String>>,
}

impl Checker<'_> {
    /// Follows a link in `file`. An error says why it is broken.
    fn follow(&mut self, file: &Path, target: &str) -> Result<()> {
        let (path, anchor) =
            target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
        let path = decoded(path.split('?').next().unwrap_or_default());
        let place = if path.is_empty() {
            file.to_path_buf()
        } else if let Some(path) = path.strip_prefix('/') {
            normal(&self.root.join(path))
        } else {
            normal(&file.parent().unwrap_or(self.root).join(&path))
        };
        if !place.starts_with(self.root) {
            return Err("leaves the repository".into());
        }
        if !place.exists() {
            return Err("the file does not exist".into());
        }
        match anchor.map(decoded) {
            Some(anchor) if place.extension().is_some_and(|extension| extension == "md") => {
                if !self.anchors.contains_key(&place) {
                    let anchors = anchors(&read(&place)?);
                    self.anchors.insert(place.clone(), anchors);
                }
                let known = anchor.is_empty() || self.anchors[&place].contains(&anchor);
                if known { Ok(()) } else { Err("the file has no such heading".into()) }
            }
            _ => Ok(()),
        }
    }
}

/// Removes `.` and `..` from a path, without accessing the file system.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

/// Decodes `%20` and the like in a target.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match pair.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the relative links in a Markdown text, in order.
pub(crate) fn links(markdown: &str) -> Vec<Link> {
    let prose = without_code_spans(&without_blocks(markdown));
    let mut found = Vec::new();
    // `[text](target)` and `![picture](target)`. The text can contain anything, so search for its end.
    for (at, mark) in prose.match_indices("](") {
        found.extend(inline_target(&prose[at + mark.len()..]).map(|target| (at, target)));
    }
    // `[label]: target` at the start of a line. `[^1]: …` is a footnote.
    let mut at = 0;
    for line in prose.split_inclusive('\n') {
        if let Some((label, rest)) =
            line.trim_start().strip_prefix('[').and_then(|line| line.split_once("]:"))
        {
            let target = rest.split_whitespace().next().map(|word| word.trim_matches(['<', '>']));
            found.extend(
                target.filter(|_| !label.starts_with('^') && !label.contains(']')).map(|target| (at, target)),
            );
        }
        at += line.len();
    }
    // `<a href="target">`, `<img src="target">`, `<source srcset="target">`.
    for attribute in ["href=\"", "src=\"", "srcset=\""] {
        for (at, mark) in prose.match_indices(attribute) {
            if prose[..at].ends_with(char::is_whitespace) {
                found.extend(prose[at + mark.len()..].split('"').next().map(|target| (at, target)));
            }
        }
    }
    found.retain(|(_, target)| !target.is_empty() && !is_address(target));
    found.sort_by_key(|(at, _)| *at);
    let line = |at: usize| prose[..at].matches('\n').count() + 1;
    found.into_iter().map(|(at, target)| Link { line: line(at), target: target.into() }).collect()
}

/// Returns the target at the start of `text`, which follows `](`.
fn inline_target(text: &str) -> Option<&str> {
    let text = text.trim_start();
    if let Some(text) = text.strip_prefix('<') {
        return text.split_once('>').map(|(target, _)| target);
    }
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(&text[..at]),
            ')' => depth -= 1,
            c if c.is_whitespace() => return Some(&text[..at]),
            _ => {}
        }
    }
    None
}

/// Returns whether a target is outside these files: `https://…`, `mailto:…`, `crate::Hub`, `//host/…`.
fn is_address(target: &str) -> bool {
    let scheme = target.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    scheme || target.starts_with("//")
}

/// Returns the anchors in a Markdown text: its headings in the format of code hosts, and its `id` and `name`
/// attributes.
fn anchors(markdown: &str) -> HashSet<String> {
    let text = without_blocks(markdown);
    let mut found = HashSet::new();
    let mut before = "";
    for line in text.lines() {
        let rank = line.chars().take_while(|c| *c == '#').count();
        let underline = line.trim_end();
        let underlined = !underline.is_empty()
            && (underline.chars().all(|c| c == '=') || underline.chars().all(|c| c == '-'))
            && !before.trim().is_empty();
        if (1..=6).contains(&rank) && line[rank..].starts_with([' ', '\t']) {
            add_heading(&mut found, line[rank..].trim().trim_end_matches('#').trim_end());
        } else if underlined {
            add_heading(&mut found, before.trim());
        }
        before = line;
    }
    for attribute in [" id=\"", " name=\""] {
        let places = text.match_indices(attribute).map(|(at, mark)| &text[at + mark.len()..]);
        found.extend(places.filter_map(|rest| rest.split('"').next()).map(String::from));
    }
    found
}

/// Adds a heading's anchor. Repeated headings get the suffixes `-1`, `-2`, ….
fn add_heading(found: &mut HashSet<String>, heading: &str) {
    let anchor = slug(heading);
    let mut unique = anchor.clone();
    let mut count = 0;
    while !found.insert(unique) {
        count += 1;
        unique = format!("{anchor}-{count}");
    }
}

/// Returns a heading's anchor: lowercase, spaces as hyphens, and only letters, digits, `-` and `_`.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    // A link in a heading counts by its text.
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// Blanks out fenced code blocks and comments. All other characters keep their positions.
fn without_blocks(markdown: &str) -> String {
    let mut result = String::with_capacity(markdown.len());
    let mut fence: Option<(char, usize)> = None;
    for line in markdown.split_inclusive('\n') {
        // A fence can be inside a list item or a quotation, on its first line.
        let start = line.trim_start_matches(|c: char| c.is_ascii_digit() || " \t>-*+.)".contains(c));
        let mark = start.chars().next().filter(|c| "`~".contains(*c));
        let length = mark.map_or(0, |mark| start.chars().take_while(|c| *c == mark).count());
        let inside = fence.is_some();
        match (fence, mark) {
            (None, Some(mark)) if length >= 3 && !(mark == '`' && start[length..].contains('`')) => {
                fence = Some((mark, length));
            }
            (Some((opened, at_least)), Some(mark))
                if mark == opened && length >= at_least && start[length..].trim().is_empty() =>
            {
                fence = None;
            }
            _ => {}
        }
        if inside || fence.is_some() { push_blank(&mut result, line) } else { result.push_str(line) }
    }
    without_comments(&result)
}

fn without_comments(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("<!--") {
        let end = rest[start..].find("-->").map_or(rest.len(), |length| start + length + "-->".len());
        result.push_str(&rest[..start]);
        push_blank(&mut result, &rest[start..end]);
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

/// Blanks out code spans. A span ends with as many backticks as it began with, in the same paragraph; unpaired
/// backticks are ordinary characters.
fn without_code_spans(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let inner = &rest[start + ticks..];
        let paragraph = &inner[..inner.find("\n\n").unwrap_or(inner.len())];
        let end = closing_ticks(paragraph, ticks).map_or(start + ticks, |at| start + ticks + at + ticks);
        result.push_str(&rest[..start]);
        push_blank(&mut result, &rest[start..end]);
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

/// Returns the position of the next run of exactly `ticks` backticks.
fn closing_ticks(text: &str, ticks: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(start) = text[at..].find('`') {
        let run = text[at + start..].bytes().take_while(|byte| *byte == b'`').count();
        if run == ticks {
            return Some(at + start);
        }
        at += start + run;
    }
    None
}

/// Appends as many spaces as `text` has bytes, with the same line breaks.
fn push_blank(result: &mut String, text: &str) {
    result.extend(text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Temporary;

    fn targets(markdown: &str) -> Vec<String> {
        links(markdown).into_iter().map(|link| link.target).collect()
    }

    #[test]
    fn every_form_of_link_is_found() {
        let markdown = "[a](one.md) ![b](two.png \"title\") [c](<three four.md>) [d](five_(six).md#x)\n\
                        [e][ref] <a href=\"seven.md\"><img alt=\"\" src=\"eight.png\"></a>\n\n[ref]: nine.md 'title'\n\
                        [text\nover lines](ten.md)\n[![badge](eleven.svg)](twelve.md)\n";
        let expected = [
            "one.md",
            "two.png",
            "three four.md",
            "five_(six).md#x",
            "seven.md",
            "eight.png",
            "nine.md",
            "ten.md",
            "eleven.svg",
            "twelve.md",
        ];
        assert_eq!(targets(markdown), expected);
    }

    #[test]
    fn external_links_and_footnotes_are_ignored() {
        let markdown = "[a](https://example.org/x) [b](mailto:a@example.org) [c](crate::Hub) [d](//example.org) []()\n\
                        [^1]: a footnote\n[`Hub`]: crate::Hub\n";
        assert_eq!(targets(markdown), [""; 0]);
    }

    #[test]
    fn links_in_code_and_comments_are_ignored() {
        let markdown = "`[a](x.md)` ``b ` [c](x.md)`` <!-- [d](x.md)\n --> [yes](y.md)\n```md\n[e](x.md)\n```\n\
                        ~~~~\n```\n[f](x.md)\n~~~\n~~~~\n> - ```\n>   [g](x.md)\n>   ```\na ` lone tick [yes](z.md)\n";
        assert_eq!(targets(markdown), ["y.md", "z.md"]);
    }

    #[test]
    fn lines_are_counted_from_one() {
        let markdown = "# é\n```\nß\n```\n`ü` [a](b.md)\n";
        assert_eq!(links(markdown), [Link { line: 5, target: "b.md".into() }]);
    }

    #[test]
    fn headings_become_anchors() {
        let markdown = "# What it *is*, and `why`?\n## Same\n## Same\n### Étude: 2_3 — x ##\nUnder\nlined\n---\n\n---\n\
                        ```\n# not one\n```\n<a id=\"own\"></a> #hashtag\n## [A link](b.md) inside\n";
        let expected =
            ["what-it-is-and-why", "same", "same-1", "étude-2_3--x", "lined", "own", "a-link-inside"];
        assert_eq!(anchors(markdown), expected.map(String::from).into());
    }

    #[test]
    fn percent_escapes_are_decoded() {
        assert_eq!(decoded("a%20b%C3%A9%zz%"), "a bé%zz%");
    }

    const COMMANDS: &str = "```sh\ncargo run\ncargo xtask test   # everything\n```\n";

    #[test]
    fn good_links_pass() {
        let readme = format!(
            "{COMMANDS}[a](docs/) [b](docs/a%20b.md#the-end) [c](#here) [d](/docs/a%20b.md#) [e](x.rs#L3)\n# Here\n"
        );
        let files = [
            ("README.md", readme.as_str()),
            ("x.rs", ""),
            ("docs/a b.md", "[up](../README.md?plain=1#here)\n## The end\n"),
            ("node_modules/p/README.md", "[broken](nowhere.md)"),
        ];
        assert_eq!(check(&Temporary::new("links-good", &files).0).unwrap(), "6 links in 2 files");
    }

    #[test]
    fn each_broken_link_is_reported_with_its_location() {
        let files = [
            (
                "README.md",
                "cargo run --release\n\n[a](gone.md)\n[b](b.md#gone) [c](../../etc) [fine](b.md#there)\n",
            ),
            ("b.md", "# There\n"),
        ];
        let error = check(&Temporary::new("links-bad", &files).0).unwrap_err();
        let found: Vec<_> = error.lines().skip(1).map(str::trim).collect();
        let expected = [
            "README.md:3: gone.md: the file does not exist",
            "README.md:4: b.md#gone: the file has no such heading",
            "README.md:4: ../../etc: leaves the repository",
            "README.md: no line with the command `cargo run`",
            "README.md: no line with the command `cargo xtask test`",
        ];
        assert_eq!(found, expected);
    }
}
