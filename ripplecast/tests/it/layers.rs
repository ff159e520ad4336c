//! The layers of the crate: imports go down, never up, and no more than two files import each other in a circle.
//!
//! What counts is what a file names: its `use` lines and paths that begin with `crate::` or `super::`, followed through
//! re-exports to the file that defines the name. Tests don't count, nor does what a module re-exports of its own children.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The top-level modules, from the bottom. A module may import from its own layer and from those before it.
const LAYERS: [&[&str]; 11] = [
    &[
        "close", "error", "glob", "id", "limits", "log", "name", "outcome", "panics", "reply", "response",
        "signals", "sync", "text",
    ],
    &["codec", "headers"],
    &["message"],
    &["engine", "redis_client"],
    &["backend", "bus", "cluster", "queue", "state"],
    &["hub"],
    &["hand_off", "live", "relay", "request", "serve"],
    &["same_origin", "sse", "ws"],
    &["server"],
    &["app"],
    &["assemble", "test"],
];

/// Files that import each other, at most: a type and its registry may.
const CIRCLE: usize = 2;

/// A path in the crate, without `crate`. The root is empty.
type Module = Vec<String>;

/// The modules of a crate by path, with the code of each that counts.
struct Crate {
    code: BTreeMap<Module, String>,
    /// What each module imports or re-exports: the local name, and the path as far as it is in the crate.
    names: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Crate {
    fn read(src: &Path) -> Self {
        let mut code = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(src.join(&folder)).unwrap() {
                let path = folder.join(entry.unwrap().file_name());
                if src.join(&path).is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(src.join(&path)).unwrap();
                    code.insert(module_of(&path), without_tests(&without_comments(&text)));
                }
            }
        }
        Self::new(code)
    }

    /// Drops the modules that exist in tests only, and reads the imports of the others.
    fn new(mut code: BTreeMap<Module, String>) -> Self {
        let test_only: Vec<Module> = code
            .keys()
            .filter(|module| (1..=module.len()).any(|end| is_test_module(&code, &module[..end])))
            .cloned()
            .collect();
        code.retain(|module, _| !test_only.contains(module));
        let mut all = Self { code, names: BTreeMap::new() };
        let modules: Vec<_> = all.code.keys().cloned().collect();
        for module in modules {
            let names = imports(&all.code[&module]).into_iter().filter_map(|import| {
                let path = all.absolute(&module, &import.path)?;
                Some((import.alias.unwrap_or_else(|| path.last().cloned().unwrap_or_default()), path))
            });
            let names = names.collect();
            all.names.insert(module, names);
        }
        all
    }

    /// Turns a path as it is written in `module` into one from the root. `None` for other crates.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Module> {
        let mut base = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => return Some(rest[1..].to_vec()),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                base.push(child.to_owned());
                let is_child = self.code.contains_key(&base);
                base.pop();
                if !is_child {
                    return None;
                }
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// Returns the module that defines what is at this path, through re-exports.
    fn definition(&self, path: &[String], steps: usize) -> Module {
        // A topic that the root re-exports, such as `stats`, is a module without a file.
        let is_topic = path.len() > 1
            && !self.code.contains_key(&path[..1])
            && self.code.get(&[][..]).is_some_and(|root| defines(root, &path[0]));
        let path = if is_topic { &path[1..] } else { path };
        let end = (0..=path.len()).rev().find(|&end| self.code.contains_key(&path[..end])).unwrap_or(0);
        let (module, rest) = path.split_at(end);
        let Some(name) = rest.first() else { return module.to_vec() };
        let is_defined = defines(&self.code[module], name);
        match self.names[module].get(name) {
            Some(target) if !is_defined && steps > 0 => {
                self.definition(&[target, &rest[1..]].concat(), steps - 1)
            }
            _ => module.to_vec(),
        }
    }

    /// The modules that each module imports from.
    fn edges(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let edges = self.code.iter().filter(|(module, _)| !module.is_empty()).map(|(module, code)| {
            let mut targets = BTreeSet::new();
            for import in imports(code) {
                let Some(path) = self.absolute(module, &import.path) else { continue };
                let target = self.definition(&path, 8);
                if !(import.is_public && target.starts_with(module)) {
                    targets.insert(target);
                }
            }
            targets.retain(|target| !target.is_empty() && target != module);
            (module, targets)
        });
        edges.collect()
    }

    /// Imports from a layer above the importing module's own.
    fn upward(&self, layers: &[&[&str]]) -> Vec<String> {
        let layer = |module: &Module| layers.iter().position(|layer| layer.contains(&&*module[0]));
        let mut found = Vec::new();
        for (module, targets) in self.edges() {
            let Some(own) = layer(module) else {
                found.push(format!("{} is in no layer", module.join("::")));
                continue;
            };
            let above = targets.iter().filter(|target| layer(target).is_none_or(|layer| layer > own));
            found.extend(above.map(|target| format!("{} imports {}", module.join("::"), target.join("::"))));
        }
        found
    }

    /// Groups of modules in which each imports every other, directly or not.
    fn circles(&self) -> Vec<BTreeSet<Module>> {
        let edges = self.edges();
        let reach = |from: &Module| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(module) = open.pop() {
                for next in edges.get(&module).into_iter().flatten() {
                    if seen.insert(next.clone()) {
                        open.push(next.clone());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            self.code.keys().map(|module| (module, reach(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, targets) in &reached {
            if targets.contains(*module) {
                let back = |target: &&Module| reached[target].contains(*module);
                circles.insert(targets.iter().filter(back).cloned().collect::<BTreeSet<_>>());
            }
        }
        circles.into_iter().collect()
    }
}

/// One name that a `use` line or a path in the code imports.
struct Import {
    path: Module,
    alias: Option<String>,
    /// Whether it is re-exported.
    is_public: bool,
}

fn module_of(path: &Path) -> Module {
    let parts: Module =
        path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts == ["lib"] { Vec::new() } else { parts }
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Cuts inline test modules off; they stand at the end of a file.
fn without_tests(text: &str) -> String {
    let starts = ["\n#[cfg(test)]\nmod tests {", "\n#[cfg(all(test"];
    let inline = starts.iter().filter_map(|start| {
        let at = text.find(start)?;
        text[at..].lines().nth(2)?.ends_with('{').then_some(at)
    });
    text[..inline.min().unwrap_or(text.len())].to_owned()
}

/// Whether the module's parent declares it under `#[cfg(test)]` or the like.
fn is_test_module(code: &BTreeMap<Module, String>, module: &[String]) -> bool {
    let (name, parent) = module.split_last().unwrap();
    let Some(text) = code.get(parent) else { return false };
    let declaration = format!("mod {name};");
    let mut lines =
        text.lines().collect::<Vec<_>>().into_iter().rev().skip_while(|line| !line.ends_with(&declaration));
    lines.next();
    lines.next().is_some_and(|above| above.starts_with("#[cfg(test)]") || above.starts_with("#[cfg(all(test"))
}

/// Whether a module's code has an item of that name at its top level.
fn defines(code: &str, name: &str) -> bool {
    const KINDS: [&str; 9] =
        ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "macro_rules!"];
    code.lines().any(|line| {
        let words = line.split(|c: char| !(c.is_alphanumeric() || "_!".contains(c))).collect::<Vec<_>>();
        let is_top = !line.starts_with(' ');
        is_top && words.windows(2).any(|pair| KINDS.contains(&pair[0]) && pair[1] == name)
    })
}

/// Everything that the code names of other modules.
fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let is_public = trimmed.starts_with("pub");
        let after = trimmed.find("use ").filter(|&at| at == 0 || is_public && trimmed[..at].ends_with(' '));
        let Some(at) = after.filter(|&at| !trimmed[..at].contains("fn ")) else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = trimmed[at + 4..].to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().expect("a use line ends"));
        }
        let tree: String = tree[..tree.find(';').unwrap()].split_whitespace().collect::<Vec<_>>().join(" ");
        expand(&[], &tree, is_public, &mut found);
    }
    for start in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(start) {
            let before = rest[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let end = rest[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = rest[at..].get(..end.unwrap_or(rest.len() - at)).unwrap().trim_end_matches(':');
            let path = path.split("::").map(str::to_owned).collect();
            found.push(Import { path, alias: None, is_public: false });
        }
    }
    found
}

/// Expands the tree of a `use` line into its names.
fn expand(before: &[String], tree: &str, is_public: bool, found: &mut Vec<Import>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut path: Module =
            [before, &path.split("::").map(|part| part.trim().to_owned()).collect::<Vec<_>>()].concat();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self" || last == "*") {
            path.pop();
        }
        return found.push(Import { path, alias: alias.map(str::to_owned), is_public });
    };
    let head: Module =
        tree[..open].split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let before = [before, &head].concat();
    let (mut depth, mut start) = (0, open + 1);
    for (at, c) in tree.char_indices().skip_while(|&(at, _)| at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || (c == '}' && depth == 0) {
            if !tree[start..at].trim().is_empty() {
                expand(&before, &tree[start..at], is_public, found);
            }
            start = at + 1;
        }
    }
}

fn ours() -> Crate {
    Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn imports_go_down() {
    let upward = ours().upward(&LAYERS);
    assert!(upward.is_empty(), "these imports go up:\n{}", upward.join("\n"));
}

#[test]
fn the_layers_are_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = fs::read_to_string(page).unwrap();
    for (below, layer) in LAYERS.iter().enumerate() {
        let row = format!("| {} | `{}` |", below + 1, layer.join("`, `"));
        assert!(text.contains(&row), "ARCHITECTURE.md lacks this row: {row}");
    }
}

#[test]
fn no_more_than_two_files_import_each_other() {
    let circles = ours().circles();
    let large: Vec<_> = circles.iter().filter(|circle| circle.len() > CIRCLE).collect();
    assert!(large.is_empty(), "these files import each other:\n{large:#?}");
    assert!(!circles.is_empty(), "the test sees pairs, so it would see more");
}

/// What the tests above rest on: that an import is seen in each form in which it can be written.
#[test]
fn imports_are_seen_in_every_form() {
    let file = |path: &str, text: &str| {
        let module = if path.is_empty() { Vec::new() } else { path.split("::").map(str::to_owned).collect() };
        (module, without_tests(&without_comments(text)))
    };
    let layers: [&[&str]; 2] = [&["low"], &["high"]];
    for (low, is_upward) in [
        ("use crate::high::Thing;\n", true),
        ("use super::high::Thing;\n", true),
        ("use crate::{\n    high::{self, Thing},\n};\n", true),
        ("use crate::Thing;\n", true),          // through the root
        ("use crate::topic::Topical;\n", true), // through a topic of the root
        ("pub(crate) use crate::high::Thing as Other;\n", true),
        ("fn f() {\n    crate::high::f();\n}\n", true),
        ("fn f(thing: &super::high::Thing) {}\n", true),
        ("// crate::high::Thing\n", false),
        ("use std::fmt;\n", false),
        ("\n#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}\n", false),
    ] {
        let files = [
            file(
                "",
                "mod high;\nmod low;\n\npub use high::Thing;\npub mod topic {\n    pub use crate::high::Topical;\n}\n",
            ),
            file("low", low),
            file("high", "pub struct Thing;\npub struct Topical;\npub(crate) fn f() {}\n"),
        ];
        let read = Crate::new(files.into_iter().collect());
        assert_eq!(!read.upward(&layers).is_empty(), is_upward, "{low}");
    }
}

#[test]
fn a_circle_is_found_through_re_exports() {
    let text = [
        ("", "mod a;\n"),
        ("a", "mod one;\nmod two;\nmod three;\n\npub(crate) use self::{one::One, three::Three, two::Two};\n"),
        ("a::one", "use super::Two;\npub(crate) struct One;\n"),
        ("a::two", "use super::three::Three;\npub(crate) struct Two;\n"),
        ("a::three", "pub(crate) struct Three(crate::a::One);\n"),
    ];
    let files = text.map(|(path, text)| {
        let module: Module = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        (module, text.to_owned())
    });
    let circles = Crate::new(files.into_iter().collect()).circles();
    assert_eq!(circles.iter().map(BTreeSet::len).collect::<Vec<_>>(), [3]);
}
