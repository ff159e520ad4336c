//! Channel patterns: `*`, `?`, and `\` before a character that is meant as it is.

/// What a subscription listens to.
pub(crate) enum Pattern {
    /// One channel.
    Channel(Box<str>),
    /// All channels that it matches.
    Glob(Glob),
}

impl Pattern {
    /// Whether it matches the whole name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Channel(channel) => **channel == *name,
            Self::Glob(glob) => glob.matches(name),
        }
    }

    /// Reads a pattern. A `\` at the end stands for itself.
    pub(crate) fn parse(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                // Two stars match what one does.
                '*' if tokens.last() == Some(&Token::Any) => {}
                '*' => tokens.push(Token::Any),
                '?' => tokens.push(Token::One),
                '\\' => tokens.push(Token::Char(chars.next().unwrap_or(c))),
                c => tokens.push(Token::Char(c)),
            }
        }
        let chars = tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None });
        match chars.collect::<Option<String>>() {
            Some(channel) => Self::Channel(channel.into()),
            None => Self::Glob(Glob { tokens: tokens.into() }),
        }
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// One character, whichever.
    One,
    /// Any characters, none too.
    Any,
}

/// A pattern that may match more than one channel.
pub(crate) struct Glob {
    /// Its parts, no two stars side by side.
    tokens: Box<[Token]>,
}

impl Glob {
    /// A pattern as Redis writes them that matches all which this matches, and perhaps more: there `?` is a byte, and
    /// brackets mean something.
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

    /// Whether it matches the whole name. When a part doesn't fit, only the last star is stretched: an earlier one never
    /// has to be. So the time is at most the product of the lengths, which are 255 or less.
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
                // The name ended before the pattern: a longer star would only make it end sooner.
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

    /// Whether the pattern, parsed, matches.
    fn matches(pattern: &str, name: &str) -> bool {
        match Pattern::parse(pattern) {
            Pattern::Channel(channel) => *channel == *name,
            Pattern::Glob(glob) => glob.matches(name),
        }
    }

    /// The same, by its definition, in exponential time.
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
    fn by_hand() {
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
        fn as_defined(pattern in r"[ab*?\\]{0,8}[ab*?]?", name in r"[ab*\\]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), matches_by_definition(&chars(&pattern), &chars(&name)));
        }
    }
}
