//! Channel patterns: `*`, `?`, and `\` before a literal character.

/// What a subscription listens to.
pub(crate) enum Pattern {
    /// A single channel.
    Exact(Box<str>),
    /// All channels that match.
    Glob(Glob),
}

impl Pattern {
    /// Returns whether the whole name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(channel) => **channel == *name,
            Self::Glob(glob) => glob.matches(name),
        }
    }

    /// Parses a pattern. A trailing `\` stands for itself.
    pub(crate) fn parse(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                // Consecutive stars match the same as one.
                '*' if tokens.last() == Some(&Token::Any) => {}
                '*' => tokens.push(Token::Any),
                '?' => tokens.push(Token::One),
                '\\' => tokens.push(Token::Char(chars.next().unwrap_or(c))),
                c => tokens.push(Token::Char(c)),
            }
        }
        let chars = tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None });
        match chars.collect::<Option<String>>() {
            Some(channel) => Self::Exact(channel.into()),
            None => Self::Glob(Glob { tokens: tokens.into() }),
        }
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Exactly this character.
    Char(char),
    /// Any one character.
    One,
    /// Any number of characters, including none.
    Any,
}

/// A pattern that may match more than one channel.
pub(crate) struct Glob {
    /// Never contains two consecutive stars.
    tokens: Box<[Token]>,
}

impl Glob {
    /// Returns a Redis pattern that matches at least the same names. It may match more, because in Redis `?`
    /// stands for one byte and brackets are special.
    pub(super) fn to_redis(&self) -> String {
        let mut pattern = String::new();
        for token in &self.tokens {
            match token {
                Token::Any | Token::One if pattern.ends_with('*') && !pattern.ends_with("\\*") => {}
                Token::Any | Token::One => pattern.push('*'),
                Token::Char(c @ ('*' | '?' | '[' | ']' | '\\' | '^')) => pattern.extend(['\\', *c]),
                Token::Char(c) => pattern.push(*c),
            }
        }
        pattern
    }

    /// Returns whether the whole name matches. On a mismatch only the last star is extended; extending an
    /// earlier one is never necessary. Time is therefore at most the product of the two lengths, which are at
    /// most 255.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (mut tokens, mut rest) = (&self.tokens[..], name.chars());
        // What follows the last star, and the part of the name that was tried for it.
        let mut star: Option<(&[Token], std::str::Chars<'_>)> = None;
        loop {
            let here = rest.clone();
            match (tokens.split_first(), rest.next()) {
                (None, None) => return true,
                (Some((Token::Any, after)), _) => {
                    rest = here.clone();
                    star = Some((after, here));
                    tokens = after;
                }
                (Some((Token::One, after)), Some(_)) => tokens = after,
                (Some((Token::Char(wanted), after)), Some(c)) if *wanted == c => tokens = after,
                // The name ended before the pattern. Extending a star would only make it end sooner.
                (Some(_), None) => return false,
                (_, Some(_)) => {
                    let Some((after, tried)) = &mut star else { return false };
                    tried.next();
                    tokens = after;
                    rest = tried.clone();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Pattern;

    /// Parses the pattern and returns whether it matches.
    fn matches(pattern: &str, name: &str) -> bool {
        match Pattern::parse(pattern) {
            Pattern::Exact(channel) => *channel == *name,
            Pattern::Glob(glob) => glob.matches(name),
        }
    }

    /// The definition of a match, in exponential time.
    fn matches_by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], name) => name.is_empty(),
            (['*', after @ ..], name) => {
                (0..=name.len()).any(|taken| matches_by_definition(after, &name[taken..]))
            }
            (['?', after @ ..], [_, rest @ ..]) => matches_by_definition(after, rest),
            (['\\', wanted, after @ ..] | [wanted, after @ ..], [c, rest @ ..]) => {
                wanted == c && matches_by_definition(after, rest)
            }
            (_, []) => false,
        }
    }

    #[test]
    fn examples_match() {
        assert!(matches("a", "a"));
        assert!(!matches("a", "ab"));
        assert!(matches("orders.*", "orders."));
        assert!(matches("*", ""));
        assert!(!matches("?", ""));
        assert!(matches("?x*", "äxyz"));
        assert!(matches(r"a\*b", "a*b"));
        assert!(!matches(r"a\*b", "axb"));
        assert!(matches(r"a\*b?", "a*bc"));
        assert!(matches(r"a\", r"a\"));
        assert!(matches("**a**", "bab"));
    }

    #[test]
    fn no_backtracking_explosion() {
        let pattern = "*a".repeat(127);
        assert!(!matches(&format!("{pattern}b"), &"a".repeat(255)));
        assert!(matches(&pattern, &"a".repeat(255)));
    }

    proptest! {
        #[test]
        fn matching_equals_its_definition(pattern in r"[ab*?\\]{0,8}[ab*?]?", name in r"[ab*\\]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), matches_by_definition(&chars(&pattern), &chars(&name)));
        }
    }
}
