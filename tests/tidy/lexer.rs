//! Enough of Rust's lexical rules to tell code from comments and text.

/// One token; comments are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Counted from 1.
    pub line: usize,
    /// What it is.
    pub kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An identifier or keyword; numbers too.
    Word(String),
    /// The inside of a string literal, escapes as written.
    Text(String),
    /// `::`.
    Path,
    /// Any other character.
    Sign(char),
}

impl Token {
    /// Whether it is this word.
    pub fn is(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(w) if w == word)
    }

    /// Whether it is this character.
    pub fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// The word, if it is one.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// The tokens of a file.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let begun = at;
        let mut kind = None;
        if c == '/' && next == '/' {
            while chars.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
        } else if c == '/' && next == '*' {
            let mut depth = 0;
            while at < chars.len() {
                match (chars[at], chars.get(at + 1)) {
                    ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
                    ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        } else if let Some((inside, end)) = raw_string(&chars, at) {
            kind = Some(Kind::Text(inside));
            at = end;
        } else if c == '"' || (matches!(c, 'b' | 'c') && next == '"') {
            at += if c == '"' { 1 } else { 2 };
            let from = at;
            while chars.get(at).is_some_and(|c| *c != '"') {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            kind = Some(Kind::Text(chars[from.min(chars.len())..at.min(chars.len())].iter().collect()));
            at += 1;
        } else if c == '\'' && (next == '\\' || chars.get(at + 2) == Some(&'\'')) {
            at += if next == '\\' { 3 } else { 2 };
            while chars.get(at).is_some_and(|c| *c != '\'') {
                at += 1;
            }
            at += 1;
        } else if c == '\'' {
            // A lifetime.
            at += 1;
            while chars.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
        } else if is_word(c) {
            while chars.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
            kind = Some(Kind::Word(chars[begun..at].iter().collect()));
        } else if c == ':' && next == ':' {
            kind = Some(Kind::Path);
            at += 2;
        } else {
            if !c.is_whitespace() {
                kind = Some(Kind::Sign(c));
            }
            at += 1;
        }
        out.extend(kind.map(|kind| Token { line, kind }));
        line += chars[begun..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// `r"…"`, `r#"…"#` and the like with `b` or `c` before them: the inside and the index after it.
fn raw_string(chars: &[char], at: usize) -> Option<(String, usize)> {
    let mut at = at;
    if matches!(chars.get(at), Some('b' | 'c')) {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    let from = at;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some((chars[from..at].iter().collect(), at + 1 + hashes));
        }
        at += 1;
    }
    Some((chars[from..].iter().collect(), chars.len()))
}

/// The index after `#[cfg(test)]` when it begins at `at`.
fn after_cfg_test(tokens: &[Token], at: usize) -> Option<usize> {
    let shape =
        [Kind::Sign('#'), Kind::Sign('['), Kind::Word("cfg".into()), Kind::Sign('('), Kind::Word("test".into())];
    let found = tokens.get(at..at + 7)?;
    let matches = found.iter().zip(&shape).all(|(token, kind)| token.kind == *kind);
    (matches && found[5].is_sign(')') && found[6].is_sign(']')).then_some(at + 7)
}

/// The index after the item that begins at `at`: past its block, or past its semicolon; of a field, past its comma.
pub fn after_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    if tokens.get(at + 1).is_some_and(|token| token.is_sign(':')) {
        return after_field(tokens, at);
    }
    while let Some(token) = tokens.get(at) {
        at += 1;
        if token.is_sign('{') {
            depth += 1;
        } else if token.is_sign('}') {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                break;
            }
        } else if token.is_sign(';') && depth == 0 {
            break;
        }
    }
    at
}

/// The index after the field that begins at `at`, with its comma.
fn after_field(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (nth, token) in tokens.iter().enumerate().skip(at) {
        match token.kind {
            Kind::Sign(',') if depth == 0 => return nth + 1,
            Kind::Sign('}') if depth == 0 => return nth,
            Kind::Sign('{' | '(' | '[' | '<') => depth += 1,
            Kind::Sign('}' | ')' | ']' | '>') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    tokens.len()
}

/// The tokens that are compiled into the product.
pub fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match after_cfg_test(tokens, at) {
            Some(item) => at = after_item(tokens, item),
            None => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    out
}

/// Modules that are declared as `#[cfg(test)] mod NAME;`: the name, or the file that a `path` attribute gives, and
/// whether one did.
pub fn test_modules(tokens: &[Token]) -> Vec<(String, bool)> {
    let named = |at: usize| {
        let mut item = tokens.get(after_cfg_test(tokens, at)?..)?;
        let mut file = None;
        while let [hash, open, ..] = item
            && hash.is_sign('#')
            && open.is_sign('[')
        {
            if let [_, _, path, _, Token { kind: Kind::Text(text), .. }, ..] = item
                && path.is("path")
            {
                file = Some(text.trim_end_matches(".rs").to_owned());
            }
            item = &item[item.iter().position(|token| token.is_sign(']'))? + 1..];
        }
        match item {
            [module, name, end, ..] if module.is("mod") && end.is_sign(';') => {
                let plain = || Some((name.word()?.to_owned(), false));
                file.map(|file| (file, true)).or_else(plain)
            }
            _ => None,
        }
    };
    (0..tokens.len()).filter_map(named).collect()
}

/// Paths that begin with one of `roots`, with `{…}` written out: line and words, the root first.
pub fn paths(tokens: &[Token], roots: &[&str]) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let begins = roots.iter().any(|root| token.is(root))
            && tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Path)
            && (at == 0 || tokens[at - 1].kind != Kind::Path);
        if begins {
            let mut found = Vec::new();
            tree(tokens, at, &mut Vec::new(), &mut found);
            out.extend(found.into_iter().map(|path| (token.line, path)));
        }
    }
    out
}

/// Reads one use tree from `at`, adds each of its paths to `found`, and gives the index after it.
fn tree(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Word(word)) => {
                prefix.push(word.clone());
                at += 1;
            }
            Some(Kind::Sign('{')) => {
                at += 1;
                while tokens.get(at).is_some_and(|token| !token.is_sign('}')) {
                    let next = tree(tokens, at, prefix, found);
                    at = next.max(at + 1);
                }
                prefix.truncate(depth);
                return at + 1;
            }
            _ => {}
        }
        if tokens.get(at).is_some_and(|token| token.kind == Kind::Path) {
            at += 1;
            continue;
        }
        if prefix.len() > depth {
            found.push(prefix.clone());
        }
        // An alias (`as x`) and the comma after it belong to the list around it.
        while depth > 0 && tokens.get(at).is_some_and(|token| !token.is_sign(',') && !token.is_sign('}')) {
            at += 1;
        }
        if depth > 0 && tokens.get(at).is_some_and(|token| token.is_sign(',')) {
            at += 1;
        }
        prefix.truncate(depth);
        return at;
    }
}

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// What it is called here; `*` for all that the path holds, and `_` for a trait without a name.
    pub name: String,
    /// Where it comes from.
    pub path: Vec<String>,
    /// Whether it is handed on with some `pub`.
    pub is_public: bool,
}

/// Every name that a `use` brings in, inside of functions too.
pub fn imports(tokens: &[Token]) -> Vec<Import> {
    let mut out = Vec::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at].is("use")) {
        let before = at.checked_sub(1).map(|before| &tokens[before]);
        let is_public = before.is_some_and(|before| before.is("pub") || before.is_sign(')'));
        import(&tokens[at + 1..], &[], is_public, &mut out);
    }
    out
}

/// Reads one use tree, adds what it brings in to `out`, and gives what stands behind it.
fn import<'a>(mut rest: &'a [Token], above: &[String], is_public: bool, out: &mut Vec<Import>) -> &'a [Token] {
    let mut path = above.to_vec();
    let mut name = None;
    while let [first, behind @ ..] = rest {
        match &first.kind {
            Kind::Word(word) if word == "as" => {
                name = behind.first().and_then(Token::word).map(str::to_owned);
                rest = behind;
            }
            Kind::Word(_) if name.is_some() => {}
            Kind::Word(word) => path.push(word.clone()),
            Kind::Sign('*') => name = Some("*".to_owned()),
            Kind::Sign('{') => {
                rest = behind;
                while rest.first().is_some_and(|token| !token.is_sign('}')) {
                    rest = import(rest, &path, is_public, out);
                    rest = if rest.first().is_some_and(|token| token.is_sign(',')) { &rest[1..] } else { rest };
                }
                return rest.get(1..).unwrap_or_default();
            }
            Kind::Path => {}
            _ => break,
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
        path.pop();
    }
    if let Some(name) = name.or_else(|| path.last().cloned()) {
        out.push(Import { name, path, is_public });
    }
    rest
}

#[test]
fn comments_and_text_are_no_code() {
    let text = "// unsafe\n/* a /* b */ unsafe */ let x = \"unsafe \\\" unsafe\"; let c = '\"'; let l: &'static str = r#\"\"unsafe\"#;";
    let words: Vec<_> = tokens(text).into_iter().filter_map(|t| t.word().map(str::to_owned)).collect();
    assert_eq!(words, ["let", "x", "let", "c", "let", "l", "str"]);
    assert_eq!(tokens("a\n'\\n'\n\"x\ny\"\nb").last().map(|t| t.line), Some(5));
}

#[test]
fn items_under_cfg_test_are_left_out() {
    let all = tokens("mod a; #[cfg(test)] mod tests { fn x() { { } } } fn y() {} #[cfg(test)] mod more; fn z() {}");
    let words: Vec<_> = without_tests(&all).into_iter().filter_map(|t| t.word().map(str::to_owned)).collect();
    assert_eq!(words, ["mod", "a", "fn", "y", "fn", "z"]);
    assert_eq!(test_modules(&all), [("more".to_owned(), false)]);
    let fields = tokens("S { #[cfg(test)] a: HashMap<K, V>, b: C, #[cfg(test)] d: E } fn f() {}");
    let words: Vec<_> = without_tests(&fields).into_iter().filter_map(|t| t.word().map(str::to_owned)).collect();
    assert_eq!(words, ["S", "b", "C", "fn", "f"]);
    let elsewhere = tokens("#[cfg(test)] #[path = \"x_tests.rs\"] mod tests;");
    assert_eq!(test_modules(&elsewhere), [("x_tests".to_owned(), true)]);
}

#[test]
fn use_trees_are_written_out() {
    let all = tokens("use crate::{engine::{Located, io as x}, ids::ShardId}; fn f() { crate::stats::Row::new(1) }");
    let found: Vec<_> = paths(&all, &["crate"]).into_iter().map(|(_, path)| path.join("::")).collect();
    let expected = ["crate::engine::Located", "crate::engine::io", "crate::ids::ShardId", "crate::stats::Row::new"];
    assert_eq!(found, expected);
}

#[test]
fn imports_have_their_names() {
    let all = tokens("use a::{self, b::{C, D as E}, f::*}; pub(crate) use super::G; fn h() { use crate::I as _; }");
    let found = imports(&all)
        .into_iter()
        .map(|import| format!("{} {} {}", import.name, import.path.join("::"), import.is_public));
    let expected =
        ["a a false", "C a::b::C false", "E a::b::D false", "* a::f false", "G super::G true", "_ crate::I false"];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}
