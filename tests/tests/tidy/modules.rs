//! Which module of a crate uses which, from `mod` and from the paths that begin with `crate`, `super` or `self`; and
//! that they do so in one direction.
//!
//! Modules are compared with those beside them: all modules of one folder, each with everything below it. What uses
//! `a::b` from `c::d` makes `c` depend on `a`. A folder's own file and the files in it are one thing seen from outside,
//! so a use between these two is no dependency. What only tests use is none either.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream::IntoIter};

/// `["container", "oom"]` is `crate::container::oom`; the crate itself is empty.
type Module = Vec<String>;

#[derive(Default)]
pub struct Modules {
    declared: BTreeSet<Module>,
    /// Who uses which path.
    used: BTreeSet<(Module, Module)>,
}

/// Within one folder: who depends on whom, and by which module the use was seen.
pub type Dependencies = BTreeMap<String, BTreeMap<String, Module>>;

impl Modules {
    /// Follows `mod` from the crate's root file.
    pub fn of_crate(root: &Path) -> Self {
        let mut modules = Self::default();
        modules.file(root, root.parent().unwrap(), &[]);
        modules
    }

    fn file(&mut self, path: &Path, folder: &Path, module: &[String]) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.text(&text, folder, module);
    }

    fn text(&mut self, text: &str, folder: &Path, module: &[String]) {
        self.declared.insert(module.to_vec());
        self.tokens(&mut without_tests(text.parse().unwrap()).into_iter().peekable(), folder, module);
    }

    fn tokens(&mut self, tokens: &mut Peekable<IntoIter>, folder: &Path, module: &[String]) {
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(body)) = (tokens.next(), tokens.next()) {
                        self.child(&name.to_string(), body, folder, module);
                    }
                }
                TokenTree::Ident(word) if ["crate", "super", "self"].contains(&word.to_string().as_str()) => {
                    self.path(&word.to_string(), tokens, module);
                }
                TokenTree::Group(group) => {
                    self.tokens(&mut group.stream().into_iter().peekable(), folder, module);
                }
                _ => {}
            }
        }
    }

    fn child(&mut self, name: &str, body: TokenTree, folder: &Path, module: &[String]) {
        let child = [module, &[name.to_owned()]].concat();
        if let TokenTree::Group(body) = body {
            self.declared.insert(child.clone());
            self.tokens(&mut body.stream().into_iter().peekable(), &folder.join(name), &child);
        } else {
            self.file(&folder.join(format!("{name}.rs")), &folder.join(name), &child);
        }
    }

    /// What follows `crate`, `self`, or one or more `super`.
    fn path(&mut self, first: &str, tokens: &mut Peekable<IntoIter>, module: &[String]) {
        let above = usize::from(first == "super");
        let start = if first == "crate" { &[] } else { &module[..module.len().saturating_sub(above)] };
        self.rest(start.to_vec(), tokens, module);
    }

    fn rest(&mut self, mut path: Module, tokens: &mut Peekable<IntoIter>, module: &[String]) {
        while separated(tokens) {
            match tokens.next() {
                Some(TokenTree::Ident(word)) if word == "super" => {
                    path.pop();
                }
                Some(TokenTree::Ident(word)) => path.push(word.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let mut inner = group.stream().into_iter().peekable();
                    while let Some(token) = inner.next() {
                        if let TokenTree::Ident(word) = token {
                            let own = [path.clone(), vec![word.to_string()]].concat();
                            self.rest(if word == "self" { path.clone() } else { own }, &mut inner, module);
                        }
                    }
                }
                _ => {}
            }
        }
        self.used.insert((module.to_vec(), path));
    }

    /// Of each folder: its modules, and which of them depends on which.
    pub fn folders(&self) -> BTreeMap<Module, Dependencies> {
        let mut folders = BTreeMap::<Module, Dependencies>::new();
        for module in &self.declared {
            if let Some((name, folder)) = module.split_last() {
                folders.entry(folder.to_vec()).or_default().entry(name.clone()).or_default();
            }
        }
        for (user, path) in &self.used {
            let used = (0..=path.len()).rev().map(|length| &path[..length]);
            let used = used.clone().find(|path| self.declared.contains(*path)).unwrap_or_default();
            let common = user.iter().zip(used).take_while(|(a, b)| a == b).count();
            if let (Some(by), Some(on)) = (user.get(common), used.get(common)) {
                let folder = folders.entry(user[..common].to_vec()).or_default();
                folder.entry(by.clone()).or_default().entry(on.clone()).or_insert_with(|| user.clone());
            }
        }
        folders
    }
}

/// Modules that depend on each other in a circle, if any do.
pub fn circle(dependencies: &Dependencies) -> Option<Vec<String>> {
    let mut left: BTreeMap<_, BTreeSet<_>> =
        dependencies.iter().map(|(by, on)| (by, on.keys().collect())).collect();
    // What depends on nothing that is left is in no circle.
    while let Some(free) = left.iter().find(|(_, on)| !on.iter().any(|on| left.contains_key(on))) {
        let free = *free.0;
        left.remove(free);
    }
    let mut walk = vec![*left.keys().next()?];
    loop {
        let next = left[walk.last()?].iter().find(|on| left.contains_key(*on))?;
        if let Some(start) = walk.iter().position(|passed| passed == next) {
            return Some(walk[start..].iter().chain([next]).map(|name| (*name).clone()).collect());
        }
        walk.push(next);
    }
}

/// Two colons, which it takes.
fn separated(tokens: &mut Peekable<IntoIter>) -> bool {
    let colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    let mut ahead = tokens.clone();
    let two =
        ahead.next().is_some_and(|token| colon(&token)) && ahead.next().is_some_and(|token| colon(&token));
    if two {
        *tokens = ahead;
    }
    two
}

/// Without the items that `#[cfg(test)]` stands before.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let (mut kept, mut skipping, mut tokens) = (Vec::new(), false, tokens.into_iter().peekable());
    while let Some(token) = tokens.next() {
        let attribute = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#');
        if attribute && let Some(TokenTree::Group(group)) = tokens.peek() {
            skipping |= group.stream().to_string().replace(' ', "") == "cfg(test)";
        }
        let ends = match &token {
            TokenTree::Punct(punct) => punct.as_char() == ';',
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Ident(_) | TokenTree::Literal(_) => false,
        };
        if !skipping {
            kept.push(token);
        }
        skipping &= !ends;
    }
    kept.into_iter().collect()
}

/// Of a package of this workspace.
pub fn of(package: &str) -> Modules {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("src");
    let library = source.join("lib.rs");
    Modules::of_crate(&if library.is_file() { library } else { source.join("main.rs") })
}

/// Each module of a folder and what it depends on, which stands above it.
pub fn list(dependencies: &Dependencies) -> String {
    let (mut listed, mut text) = (BTreeSet::new(), String::new());
    while let Some((module, on)) = dependencies
        .iter()
        .find(|(module, on)| !listed.contains(*module) && on.keys().all(|on| listed.contains(on)))
    {
        listed.insert(module.clone());
        let on: Vec<&str> = on.keys().map(String::as_str).collect();
        text +=
            &if on.is_empty() { format!("{module}\n") } else { format!("{module} -> {}\n", on.join(" ")) };
    }
    text
}

/// A crate of these files, and its first circle.
fn circle_of(name: &str, files: &[(&str, &str)]) -> Option<String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let folders = Modules::of_crate(&folder.join("lib.rs")).folders();
    folders.values().find_map(circle).map(|circle| circle.join(" "))
}

#[test]
fn a_planted_circle_is_found() {
    let planted: [(&str, &[(&str, &str)]); 5] = [
        (
            "by_use",
            &[("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::{a::A};")],
        ),
        (
            "by_paths_in_code",
            &[
                ("lib.rs", "mod a; mod b; mod c { fn f(x: super::b::B) {} }"),
                ("a.rs", "fn f() -> u8 { crate::c::f() }"),
                ("b.rs", "fn f() { println!(\"{}\", crate::a::f()) }"),
            ],
        ),
        (
            "through_folders",
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", "mod inner;"),
                ("a/inner.rs", "use crate::b::{self, B};"),
                ("b.rs", "mod inner;"),
                ("b/inner.rs", "use super::super::a;"),
            ],
        ),
        (
            "inside_a_folder",
            &[
                ("lib.rs", "mod a;"),
                ("a.rs", "mod b; mod c;"),
                ("a/b.rs", "use super::c::C;"),
                ("a/c.rs", "use crate::a::{b::B, A};"),
            ],
        ),
        (
            "in_a_group",
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", "use crate::{x, b::{y, Z}};"),
                ("b.rs", "pub use crate::a;"),
            ],
        ),
    ];
    for (name, files) in planted {
        assert!(circle_of(name, files).is_some(), "{name}");
    }
}

#[test]
fn what_is_no_circle_is_none() {
    let sound: [(&str, &[(&str, &str)]); 3] = [
        ("one_way", &[("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "struct B;")]),
        (
            "only_in_tests",
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", "use crate::b::B;"),
                ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; } #[cfg(test)] mod other;"),
            ],
        ),
        (
            "a_folder_and_its_files",
            &[
                ("lib.rs", "mod a;"),
                ("a.rs", "mod b; use b::B; use self::b::C;"),
                ("a/b.rs", "use super::A;"),
            ],
        ),
    ];
    for (name, files) in sound {
        assert_eq!(circle_of(name, files), None, "{name}");
    }
}
