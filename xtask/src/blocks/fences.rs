//! Finds the code blocks in a Markdown text.

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// A code block in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line where it starts, counted from 1.
    pub(super) line: usize,
    /// The first word after its fence: `rust` for `rust,no_run`. Empty without one, or without a
    /// fence.
    pub(super) language: String,
    /// Its contents.
    pub(super) text: String,
}

/// Returns all code blocks, in order.
pub(super) fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (event, range) in Parser::new(markdown).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let info = match &kind {
                    CodeBlockKind::Fenced(info) => info.as_ref(),
                    CodeBlockKind::Indented => "",
                };
                let language = info.split([',', ' ']).next().unwrap_or_default().into();
                let line = markdown[..range.start].matches('\n').count() + 1;
                open = Some(Block { line, language, text: String::new() });
            }
            Event::Text(text) => {
                if let Some(block) = &mut open {
                    block.text.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => found.extend(open.take()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_all_positions() {
        let markdown = "# A\n```rust,no_run\nlet a;\n\nlet b;\n```\n- item\n  ~~~sh\n  ls\n  ~~~\n\ntext `x`\n\n    plain\n";
        let block =
            |line, language: &str, text: &str| Block { line, language: language.into(), text: text.into() };
        let expected =
            [block(2, "rust", "let a;\n\nlet b;\n"), block(8, "sh", "ls\n"), block(14, "", "plain\n")];
        assert_eq!(blocks(markdown), expected);
    }
}
