//! The configurations as shown in the documentation.

pub(crate) const DEPLOY: &str = include_str!("../../../docs/deploy.md");
pub(crate) const TLS: &str = include_str!("../../../docs/tls.md");

/// Returns the one code block of a page in `language` that contains `text`.
#[track_caller]
pub(crate) fn block(page: &str, language: &str, text: &str) -> String {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<&str> = blocks.filter(|block| block.contains(text)).collect();
    let [block] = blocks[..] else { panic!("{} blocks of {language} hold {text:?}", blocks.len()) };
    block.to_owned()
}

/// Returns the text with one replacement. The original must occur exactly once.
#[track_caller]
pub(crate) fn with(text: &str, there: &str, here: &str) -> String {
    assert_eq!(text.matches(there).count(), 1, "{there:?} is not once in\n{text}");
    text.replace(there, here)
}

#[test]
fn a_block_ends_with_its_fence() {
    assert_eq!(block("a\n```x\none\ntwo\n```\nb\n```x\nthree\n```\n", "x", "two"), "one\ntwo\n");
    assert_eq!(with("listen 80;", "80", "81"), "listen 81;");
}
