//! The crate's layers, enforced: this test reads `src/` and fails on an import that points up.
//!
//! What stands in [`LAYERS`] is the table of `src/lib.rs` as data, and [`BANS`] is what a layer must never touch.
//! The sources are cut into tokens without comments and literals, every path in them is made absolute
//! (`crate::`, `super::`, `self::`, groups), and the paths are held against the two. Test modules count as
//! well: what a module's tests need from above belongs into `tests/`.

#![allow(clippy::unwrap_used)] // a test that panics says so

use std::fs;
use std::path::Path;

/// Layers, lowest first, and the top-level modules in each. A module may use its own layer and lower ones.
const LAYERS: &[(&str, &[&str])] = &[
    ("words", &["addr", "clock", "counters", "drops", "limits"]),
    ("bytes", &["frame", "wire"]),
    ("tables", &["table"]),
    ("decision", &["snapshot", "shared", "pipeline"]),
    ("edge", &["port", "coalesce", "offload", "worker"]),
    ("control", &["control", "service", "host"]),
    ("composition", &["daemon", "lab", "sim", "main", "bin"]),
];

/// What is banned up to and including a layer, apart from the modules in `except` and what is in them.
struct Ban {
    up_to: &'static str,
    paths: &'static [&'static str],
    except: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        up_to: "decision",
        paths: &["std::io", "std::fs", "std::os", "std::process", "libc", "nix", "mio", "tokio"],
        except: &[],
        why: "deciding does no I/O",
    },
    Ban {
        up_to: "decision",
        paths: &["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "UnixDatagram"],
        except: &[],
        why: "deciding does no I/O",
    },
    Ban {
        up_to: "decision",
        paths: &["Instant::now", "SystemTime"],
        except: &[],
        why: "time is an argument",
    },
    Ban {
        up_to: "decision",
        paths: &["std::thread", "crossbeam_channel"],
        except: &[],
        why: "deciding knows no threads",
    },
    Ban {
        up_to: "decision",
        paths: &["Mutex", "RwLock", "Condvar"],
        except: &["shared"],
        why: "shared is the only home of locks",
    },
    Ban { up_to: "tables", paths: &["log"], except: &[], why: "tables and bytes answer, they do not log" },
    Ban {
        up_to: "edge",
        paths: &["tokio", "axum", "hyper", "clap", "rtnetlink"],
        except: &["port::kernel_tests"], // they make the interfaces that they test with
        why: "the data plane knows no requests and no configuration",
    },
];

/// The only use that one table makes of another: (user, used).
const TABLE_USES: &[(&str, &str)] = &[("conntrack", "port_pool")];

/// The only modules with `unsafe` code.
const UNSAFE: &[&str] = &["port", "host"];

#[test]
fn no_import_points_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_sources(&root, &root, &mut files);
    assert!(files.len() > 10, "the sources are where this test looks for them");
    let faults: Vec<String> = files.iter().flat_map(|(path, text)| faults(path, text)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn read_sources(root: &Path, directory: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Everything that is wrong with the file `path` (relative to `src/`), one line each.
fn faults(path: &str, text: &str) -> Vec<String> {
    let module = module_path(path);
    let Some(top) = module.first() else { return Vec::new() }; // lib.rs declares the modules
    let Some(layer) = layer_of(top) else {
        return vec![format!("{path}: module `{top}` is in no layer; put it into LAYERS and src/lib.rs")];
    };
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for Used { line, path: used } in paths(&tokens, &module) {
        let mut fault = |why: &str| faults.push(format!("src/{path}:{line}: `{}`: {why}", used.join("::")));
        if used[0] == "crate" {
            match used.get(1).and_then(|to| Some((to, layer_of(to)?))) {
                Some((to, above)) if above > layer => {
                    fault(&format!("`{top}` is {}, `{to}` is {} above it", LAYERS[layer].0, LAYERS[above].0));
                }
                _ if used.get(1).is_some_and(|to| to == "table") && top == "table" => {
                    let pair = module.get(1).zip(used.get(2));
                    let allowed = pair.is_none_or(|(a, b)| a == b || TABLE_USES.contains(&(&**a, &**b)));
                    if !allowed {
                        fault("tables do not know each other");
                    }
                }
                _ => {}
            }
        }
        for ban in BANS {
            let up_to = LAYERS.iter().position(|(name, _)| *name == ban.up_to).unwrap();
            let hit = ban.paths.iter().any(|banned| has(&used, banned));
            if hit && layer <= up_to && !ban.except.iter().any(|home| is_within(&module, home)) {
                fault(ban.why);
            }
        }
    }
    if !UNSAFE.contains(&top.as_str()) {
        let unsafes = tokens.iter().filter(|token| token.text == "unsafe");
        faults.extend(
            unsafes.map(|token| {
                format!("src/{path}:{}: `unsafe` outside of {}", token.line, UNSAFE.join(" and "))
            }),
        );
    }
    faults.sort();
    faults.dedup();
    faults
}

/// Whether a module is `home` or in it.
fn is_within(module: &[String], home: &str) -> bool {
    let home: Vec<&str> = home.split("::").collect();
    module.len() >= home.len() && module.iter().zip(home).all(|(a, b)| a == b)
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// `table/conntrack/tcp.rs` is `["table", "conntrack", "tcp"]`, `lib.rs` is the root.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Whether `path` has the segments of `banned`, one after the other. A crate's name counts only in front of
/// something; a type's name counts anywhere.
fn has(path: &[String], banned: &str) -> bool {
    let banned: Vec<&str> = banned.split("::").collect();
    let is_crate = banned.len() == 1 && banned[0].starts_with(char::is_lowercase);
    if is_crate {
        path.len() > 1 && path[0] == banned[0]
    } else {
        path.windows(banned.len()).any(|part| part == banned)
    }
}

/// A path that the source names, made absolute: `crate::table::...`, `std::io::...`.
struct Used {
    line: usize,
    path: Vec<String>,
}

/// All paths in `tokens`, the contents of module `module`. A lone name is a path too.
fn paths(tokens: &[Token], module: &[String]) -> Vec<Used> {
    let mut found = Vec::new();
    let mut inline: Vec<Option<String>> = Vec::new(); // one for each open brace; the name where it is a module
    let mut at = 0;
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        match text {
            "{" => {
                let is_module = at >= 2 && tokens[at - 2].text == "mod";
                inline.push(is_module.then(|| tokens[at - 1].text.clone()));
            }
            "}" => drop(inline.pop()),
            _ => {}
        }
        if !is_name(text) {
            at += 1;
            continue;
        }
        let mut trees = Vec::new();
        let end = tree(tokens, at, &[], &mut trees);
        let here: Vec<String> = module.iter().cloned().chain(inline.iter().flatten().cloned()).collect();
        found.extend(trees.into_iter().map(|(line, path)| Used { line, path: absolute(path, &here) }));
        at = end;
    }
    found
}

/// Reads `a::b`, `a::{b, c::d}` from `at` on and appends every path in it. Returns where it ends.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = prefix.to_vec();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = tokens[at].line;
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = if is_name(text(at)) { tree(tokens, at, &path, found) } else { at + 1 };
            }
            return at + 1;
        }
        if is_name(text(at)) {
            path.push(text(at).to_owned());
            at += 1;
        }
        if text(at) != "::" || !(is_name(text(at + 1)) || text(at + 1) == "{") {
            found.push((line, path));
            return at;
        }
        at += 1;
    }
}

/// Resolves what a path begins with, in the module `here`.
fn absolute(path: Vec<String>, here: &[String]) -> Vec<String> {
    let rooted = |depth: usize, rest: &[String]| {
        let root = ["crate".to_owned()];
        root.into_iter().chain(here[..depth].iter().cloned()).chain(rest.iter().cloned()).collect()
    };
    match path[0].as_str() {
        "vswitchd" => rooted(0, &path[1..]),
        "self" if path.len() > 1 => rooted(here.len(), &path[1..]),
        "super" => {
            let supers = path.iter().take_while(|part| *part == "super").count();
            rooted(here.len().saturating_sub(supers), &path[supers..])
        }
        _ => path,
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

/// Names, `::` and other signs; no comments, no literals.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match name {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                name => name,
            };
            if !first.is_whitespace() && !first.is_numeric() {
                tokens.push(Token { line, text: rest[..length].to_owned() });
            }
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the comment or literal at the beginning of `text`, if there is one.
fn skipped(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('\'') {
        return character(text);
    }
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('"') || rest.starts_with("#\""))
    });
    let prefix = prefix.unwrap_or("");
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix.len() + hashes + 1;
        return Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()));
    }
    if !rest.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    let close = rest.char_indices().skip(1).find(|&(_, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    Some(prefix.len() + close.map_or(rest.len(), |(at, _)| at + 1))
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of a character literal; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        return text.get(3..)?.find('\'').map(|at| at + 4);
    }
    let (at, next) = chars.next()?;
    (next == '\'').then_some(at + 1)
}

mod the_test_itself {
    use super::{faults, tokens};

    fn finds(path: &str, text: &str) -> bool {
        !faults(path, text).is_empty()
    }

    #[test]
    fn sees_upward_imports_in_every_form() {
        for text in [
            "use crate::pipeline::story;",
            "use crate::pipeline;",
            "use crate::{addr::MacAddr, worker::{self, now}};",
            "fn f() { crate::worker::now() }",
            "use super::super::pipeline::story;",
            "macro_rules! m { () => { $crate::worker::now() } }",
            "mod tests { mod deeper { use super::super::super::super::shared::Fdb; } }",
            "#[cfg(test)]\nmod tests { use crate::shared::Fdb; }",
            "use vswitchd::daemon;",
        ] {
            assert!(finds("table/mac_table.rs", text), "{text}");
        }
        let faults = faults("table/mac_table.rs", "\n\nuse crate::pipeline::story;");
        assert_eq!(
            faults,
            [
                "src/table/mac_table.rs:3: `crate::pipeline::story`: `table` is tables, `pipeline` is decision above it"
            ]
        );
    }

    #[test]
    fn lets_downward_imports_and_mere_words_pass() {
        for (path, text) in [
            ("table/mac_table.rs", "use crate::{addr::MacAddr, clock::Time};"),
            ("table/mac_table.rs", "// use crate::pipeline::story;\n/// [`crate::worker`] /* */\n"),
            ("table/mac_table.rs", "/* /* use crate::worker::now; */ use crate::worker::now; */"),
            (
                "table/mac_table.rs",
                "const A: &str = \"crate::worker\\\"\"; const B: &str = r#\"crate::worker \" \"#;",
            ),
            ("table/mac_table.rs", "fn f<'a>(c: char, s: &'a str) { if c == '\"' { } } // \"crate::worker\""),
            ("table/mac_table.rs", "mod tests { use super::*; use super::Entry; }"),
            ("table/mac_table.rs", "pub(crate) fn worker() {}"),
            ("table/conntrack/tcp.rs", "use super::{Tuple, timeouts};\nuse super::super::port_pool::Pool;"),
            ("worker.rs", "use crate::{pipeline::story, port::Device, table::conntrack}; use std::thread;"),
            ("lib.rs", "pub mod daemon;"),
        ] {
            assert_eq!(faults(path, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn sees_what_a_layer_must_never_touch() {
        for (path, text) in [
            ("pipeline/mod.rs", "use std::io;"),
            ("pipeline/mod.rs", "use std::{fmt, io::{self, Read}};"),
            ("pipeline/mod.rs", "let now = std::time::Instant::now();"),
            ("pipeline/mod.rs", "use std::time::Instant; fn f() { Instant::now(); }"),
            ("pipeline/nat.rs", "fn f() { std::thread::yield_now() }"),
            ("pipeline/nat.rs", "struct S { m: std::sync::Mutex<u8> }"),
            ("pipeline/nat.rs", "use std::sync::{Arc, Mutex};"),
            ("table/mac_table.rs", "fn f() { log::info!(\"learned\") }"),
            ("table/mac_table.rs", "use crate::table::neighbor_table::NeighborTable;"),
            ("table/port_pool.rs", "use super::conntrack::Tuple;"),
            ("port/tap.rs", "use tokio::net::UnixStream;"),
            ("worker.rs", "unsafe { f() }"),
            ("brand_new.rs", ""),
        ] {
            assert!(finds(path, text), "{path}: {text}");
        }
        assert!(!finds("shared/mod.rs", "use std::sync::Mutex;"));
        assert!(!finds("shared/fdb.rs", "use std::sync::Mutex;"));
        assert!(!finds("port/tap.rs", "// SAFETY: none\nunsafe { f() }"));
    }

    #[test]
    fn cuts_sources_into_tokens_with_their_lines() {
        let cut: Vec<(usize, String)> = tokens("a::b /* x\n */ c'x' \"s\n\" d")
            .into_iter()
            .map(|token| (token.line, token.text))
            .collect();
        let expected = [(1, "a"), (1, "::"), (1, "b"), (2, "c"), (3, "d")];
        assert_eq!(cut, expected.map(|(line, text)| (line, text.to_owned())));
    }
}
