//! Lists the crate's public API from rustdoc's JSON, and compares it with the committed listing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use public_api::PublicItem;
use serde_json::Value;

use crate::command::Command;
use crate::files::read;
use crate::steps::target_directory;
use crate::{Result, Workspace};

/// The committed listing.
const LISTING: &str = "ripplecast/public-api.txt";

/// The version of rustdoc's JSON that the dependency `public-api` reads. Each compiler writes only one version.
const FORMAT: u64 = 57;

/// Crates whose types do not count as foreign: ours and the standard library.
const NOT_FOREIGN: [&str; 5] = ["ripplecast", "core", "alloc", "std", "str"];

/// The most lines of a difference that are printed.
const LINES_SHOWN: usize = 40;

/// Compares the listing with the code. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let listing = match listing(workspace)? {
        Made::Listing(listing) => listing,
        Made::LeftOut(why) => {
            println!("   skipped: {why}");
            return Ok(format!("skipped: {why}"));
        }
    };
    let difference = difference(&read(&workspace.at(LISTING))?, &listing);
    if difference.is_empty() {
        return Ok(format!("{} lines, as in {LISTING}", listing.lines().count()));
    }
    let shown = difference[..difference.len().min(LINES_SHOWN)].join("\n   ");
    let rest = difference.len().saturating_sub(LINES_SHOWN);
    let rest = if rest > 0 { format!("\n   and {rest} more") } else { String::new() };
    Err(format!(
        "the public API differs from {LISTING}:\n   {shown}{rest}\n\
         If this is intended, run `cargo xtask public-api --bless` and commit the file; CHANGELOG.md names what users must change"
    ))
}

/// Prints the listing, or writes it to its file.
pub(crate) fn show(workspace: &Workspace, bless: bool) -> Result<()> {
    match listing(workspace)? {
        Made::Listing(listing) if bless => {
            let file = workspace.at(LISTING);
            fs::write(&file, listing)
                .map_err(|error| format!("failed to write {}: {error}", file.display()))?;
            println!("wrote {LISTING}");
            Ok(())
        }
        Made::Listing(listing) => {
            print!("{listing}");
            Ok(())
        }
        Made::LeftOut(why) => Err(why),
    }
}

/// The result of making the listing.
enum Made {
    /// The listing.
    Listing(String),
    /// Why this toolchain cannot make one.
    LeftOut(String),
}

/// Makes the listing of the current code.
fn listing(workspace: &Workspace) -> Result<Made> {
    let target = target_directory(workspace);
    // The JSON output is unstable. The variable that allows it is set only for rustdoc: build scripts that see it would
    // turn on unstable features, and everything would be recompiled.
    let rustdoc = target.join("rustdoc-json");
    fs::create_dir_all(&target)
        .and_then(|()| fs::write(&rustdoc, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n"))
        .and_then(|()| fs::set_permissions(&rustdoc, fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("failed to write {}: {error}", rustdoc.display()))?;
    // As docs.rs builds it, with the crate's own `cfg` for it.
    Command::line("cargo rustdoc -p ripplecast --lib --all-features --locked --target-dir")
        .arg(target.display().to_string())
        .arg("--")
        .arg("--cfg")
        .arg("docsrs")
        .arg("-Zunstable-options")
        .arg("--output-format=json")
        .env("RUSTDOC", rustdoc.display().to_string())
        .run(&workspace.root)?;
    let file = target.join("doc/ripplecast.json");
    let json: Value =
        serde_json::from_str(&read(&file)?).map_err(|error| format!("{}: {error}", file.display()))?;
    let format = json["format_version"].as_u64();
    if format != Some(FORMAT) {
        let format = format.map_or_else(|| "of no version".into(), |format| format!("version {format}"));
        return Ok(Made::LeftOut(format!(
            "this compiler writes rustdoc's JSON in {format}, but version {FORMAT} is required; see xtask/src/api.rs"
        )));
    }
    let api = public_api::Builder::from_rustdoc_json(&file)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Made::Listing(render(&api.items().map(line).collect::<Vec<_>>())))
}

/// Returns one item as a line.
fn line(item: &PublicItem) -> String {
    joined(item.tokens().map(public_api::tokens::Token::text))
}

/// Joins tokens. Between an associated type and its bounds, public-api prints nothing: `Future<OutputSend>`.
fn joined<'a>(tokens: impl Iterator<Item = &'a str>) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    tokens.fold(String::new(), |mut line, token| {
        if line.ends_with(is_word) && token.starts_with(is_word) {
            line.push_str(": ");
        }
        line + token
    })
}

/// Returns the listing of these items.
fn render(items: &[String]) -> String {
    let foreign: BTreeSet<&str> = items.iter().flat_map(|item| foreign_types(item)).collect();
    let foreign: Vec<&str> = foreign.into_iter().collect();
    format!(
        "# Written by `cargo xtask public-api --bless`, with all features.\n\n\
         # Types and traits of other crates in the public API\n{}\n\n\
         # Public items\n{}\n",
        foreign.join("\n"),
        items.join("\n")
    )
}

/// Returns the paths in an item that belong to other crates.
fn foreign_types(item: &str) -> impl Iterator<Item = &str> {
    let paths = item.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    paths.map(|path| path.trim_matches(':')).filter(|path| {
        // `Self::Error` and `T::Item` start with a capital letter.
        path.split_once("::")
            .is_some_and(|(root, _)| root.starts_with(char::is_lowercase) && !NOT_FOREIGN.contains(&root))
    })
}

/// Returns the removed lines with a `-`, and the added lines with a `+`.
fn difference(old: &str, new: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<String>>();
    let (old, new) = (lines(old), lines(new));
    let removed = old.difference(&new).map(|line| format!("-{line}"));
    removed.chain(new.difference(&old).map(|line| format!("+{line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_types_are_those_of_other_crates() {
        let item = "impl<S: tower_service::Service<http::request::Request<T>>, T> tower_layer::Layer<S> for \
                    ripplecast::SameOrigin where <S as a::B>::Error: core::fmt::Debug, S::Future: 'static";
        let foreign: Vec<&str> = foreign_types(item).collect();
        assert_eq!(
            foreign,
            ["tower_service::Service", "http::request::Request", "tower_layer::Layer", "a::B"]
        );
        assert_eq!(foreign_types("pub fn ripplecast::Room::len(&self) -> usize").count(), 0);
        assert_eq!(foreign_types("pub fn ripplecast::a(&self, T::Item) -> Self::Error").count(), 0);
    }

    #[test]
    fn a_bound_of_an_associated_type_is_set_off() {
        let tokens = ["Future", "<", "Output", "ripplecast", "::", "Outcome", ">", " ", "+", " ", "'static"];
        assert_eq!(joined(tokens.into_iter()), "Future<Output: ripplecast::Outcome> + 'static");
    }

    #[test]
    fn the_listing_names_each_foreign_type_once() {
        let items = ["pub fn ripplecast::a(bytes::Bytes)", "pub fn ripplecast::b() -> bytes::Bytes"];
        let listing = render(&items.map(str::to_owned));
        assert!(listing.contains("in the public API\nbytes::Bytes\n\n# Public items\npub fn"), "{listing}");
    }

    #[test]
    fn a_difference_shows_removed_and_added_lines() {
        assert_eq!(difference("a\nb\nc\n", "c\nd\na\n"), ["-b", "+d"]);
        assert!(difference("a\nb\n", "a\nb\n").is_empty());
    }
}
