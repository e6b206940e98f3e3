//! A file as `syn` reads it: its tokens in a row, those inside of macros too, and its items, without what is compiled
//! for tests only.

use std::iter::Peekable;

use proc_macro2::token_stream::IntoIter;
use proc_macro2::{Delimiter, Group, LineColumn, Spacing, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Block, Ident, ImplItem, Item, ItemImpl, Lit, Signature, Type, UseTree, Visibility};

/// One token; a comment is none, and a doc is an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Where it begins; lines are counted from 1.
    pub at: LineColumn,
    /// As written, `::` as one; of a string literal the inside.
    text: String,
    is_quoted: bool,
}

impl Token {
    /// Whether it is this word or sign.
    pub fn is(&self, text: &str) -> bool {
        !self.is_quoted && self.text == text
    }

    /// The identifier, keyword or number, if it is one.
    pub fn word(&self) -> Option<&str> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        (!self.is_quoted && self.text.chars().all(is_word)).then_some(&self.text)
    }

    /// The inside of a string literal, if it is one.
    pub fn quoted(&self) -> Option<&str> {
        self.is_quoted.then_some(&self.text)
    }
}

/// The tokens of a file in a row.
pub fn tokens(stream: TokenStream) -> Vec<Token> {
    let mut out = Vec::new();
    flatten(stream, &mut out);
    out
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let sign = |span: Span, text: &str| Token { at: span.start(), text: text.to_owned(), is_quoted: false };
    let mut is_joint = false;
    for tree in stream {
        let was_joint = std::mem::replace(&mut is_joint, false);
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis | Delimiter::None => ("(", ")"),
                };
                out.push(sign(group.span_open(), open));
                flatten(group.stream(), out);
                out.push(sign(group.span_close(), close));
            }
            TokenTree::Literal(literal) => {
                let token = sign(literal.span(), &literal.to_string());
                out.push(match Lit::new(literal) {
                    Lit::Str(text) => Token { text: text.value(), is_quoted: true, ..token },
                    _ => token,
                });
            }
            // A lifetime is no word.
            TokenTree::Ident(_) if was_joint && out.pop_if(|last| last.is("'")).is_some() => {}
            TokenTree::Ident(word) => out.push(sign(word.span(), &word.to_string())),
            TokenTree::Punct(punct) => {
                is_joint = punct.spacing() == Spacing::Joint;
                match out.last_mut() {
                    Some(last) if was_joint && punct.as_char() == ':' && last.is(":") => last.text.push(':'),
                    _ => out.push(sign(punct.span(), punct.as_char().encode_utf8(&mut [0; 4]))),
                }
            }
        }
    }
}

/// Paths of two words or more: line and words.
pub fn paths(code: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, token) in code.iter().enumerate().filter(|(at, _)| *at == 0 || !code[at - 1].is("::")) {
        let more = code[at + 1..].chunks_exact(2).take_while(|two| two[0].is("::")).map_while(|two| two[1].word());
        let path: Vec<_> = token.word().into_iter().chain(more).map(str::to_owned).collect();
        if token.word().is_some() && code.get(at + 1).is_some_and(|next| next.is("::")) {
            found.push((token.at.line, path));
        }
    }
    found
}

fn is_sign(tree: &TokenTree, sign: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// What is compiled into the product: without what stands under `#[cfg(test)]`. Modules that are declared there are added
/// to `modules`: the name, or the file that a `path` attribute gives, and whether one did.
pub fn without_tests(stream: TokenStream, modules: &mut Vec<(String, bool)>) -> TokenStream {
    let mut out: Vec<TokenTree> = Vec::new();
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let is_test = is_sign(&tree, '#') && trees.next_if(|next| next.to_string() == "[cfg (test)]").is_some();
        match tree {
            _ if is_test => {
                // Its doc and other attributes go with it.
                let is_attribute = |two: &[TokenTree]| is_sign(&two[0], '#') && matches!(two[1], TokenTree::Group(_));
                let before = out.rchunks_exact(2).take_while(|two| is_attribute(two)).count();
                let mut item = out.split_off(out.len() - 2 * before);
                pass_item(&mut trees, &mut item);
                modules.extend(declared(item));
            }
            TokenTree::Group(group) => {
                let mut left = Group::new(group.delimiter(), without_tests(group.stream(), modules));
                left.set_span(group.span());
                out.push(left.into());
            }
            other => out.push(other),
        }
    }
    out.into_iter().collect()
}

/// Takes an item, a statement or a field: up to its block or its semicolon, or the comma behind it.
fn pass_item(trees: &mut Peekable<IntoIter>, item: &mut Vec<TokenTree>) {
    let (mut depth, mut has_bounds) = (0_usize, false);
    for tree in trees.by_ref() {
        let is_arrow = item.last().is_some_and(|last| is_sign(last, '-'));
        item.push(tree);
        match &item[item.len() - 1] {
            TokenTree::Ident(word) => has_bounds |= word == "where",
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
            TokenTree::Punct(sign) => match sign.as_char() {
                ';' => return,
                ',' if depth == 0 && !has_bounds => return,
                '<' => depth += 1,
                '>' if !is_arrow => depth = depth.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
    }
    trees.next_if(|next| is_sign(next, ','));
}

/// The module that an item declares, when it does.
fn declared(item: Vec<TokenTree>) -> Option<(String, bool)> {
    let module: syn::ItemMod = syn::parse2(item.into_iter().collect()).ok()?;
    let path = module.attrs.iter().find(|attr| attr.path().is_ident("path"));
    match path.map(|path| &path.meta.require_name_value().expect("a path is a text").value) {
        _ if module.content.is_some() => None,
        Some(syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(file), .. })) => {
            Some((file.value().trim_end_matches(".rs").to_owned(), true))
        }
        _ => Some((module.ident.to_string(), false)),
    }
}

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Where its path begins.
    pub line: usize,
    /// What it is called here; `*` for all that the path holds, and `_` for a trait without a name.
    pub name: String,
    /// Where it comes from.
    pub path: Vec<String>,
    /// Whether it is handed on with some `pub`.
    pub is_public: bool,
}

/// From where something begins in a file to where it ends.
#[derive(Clone, Copy)]
pub struct Extent(LineColumn, LineColumn);

impl Extent {
    /// Whether a token of its file stands in it.
    pub fn holds(self, token: &Token) -> bool {
        self.0 < token.at && token.at < self.1
    }

    /// The first line.
    pub fn line(self) -> usize {
        self.0.line
    }

    /// How many lines it has.
    pub fn lines(self) -> usize {
        self.1.line + 1 - self.0.line
    }
}

/// A block of `impl NAME`, not of a trait.
pub struct Impl {
    /// The type's own name.
    pub name: String,
    /// What is defined in it.
    pub items: Vec<String>,
    /// The block.
    pub extent: Extent,
}

/// A function with a body.
pub struct Function {
    /// Its own.
    pub name: String,
    /// Whether it is a method.
    pub takes_self: bool,
    /// From `fn` to the end of the body.
    pub extent: Extent,
}

/// What stands in a file, inside of functions and modules too.
#[derive(Default)]
pub struct Outline {
    /// Each name of each `use`.
    pub imports: Vec<Import>,
    /// In order.
    pub impls: Vec<Impl>,
    /// In order; one inside of another comes after it.
    pub functions: Vec<Function>,
    /// Items that other files can name: those with some `pub`, fields left out.
    pub public_items: usize,
}

impl Outline {
    /// Reads a file.
    pub fn new(items: &[Item]) -> Self {
        let mut outline = Self::default();
        items.iter().for_each(|item| outline.visit_item(item));
        outline
    }

    /// Adds what a use tree brings in.
    fn import(&mut self, tree: &UseTree, above: &[&Ident], is_public: bool) {
        let (last, name) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &[above, &[&path.ident]].concat(), is_public),
            UseTree::Group(group) => return group.items.iter().for_each(|tree| self.import(tree, above, is_public)),
            UseTree::Glob(_) => (None, "*".to_owned()),
            UseTree::Rename(rename) => (Some(&rename.ident), rename.rename.to_string()),
            UseTree::Name(name) if name.ident == "self" && !above.is_empty() => {
                (None, above[above.len() - 1].to_string())
            }
            UseTree::Name(name) => (Some(&name.ident), name.ident.to_string()),
        };
        let last = last.filter(|last| *last != "self" || above.is_empty());
        let path: Vec<_> = above.iter().copied().chain(last).collect();
        let line = path.first().map_or(1, |first| first.span().start().line);
        self.imports.push(Import { line, name, path: path.iter().map(ToString::to_string).collect(), is_public });
    }

    fn function(&mut self, of: &Signature, body: &Block) {
        let extent = Extent(of.fn_token.span.start(), body.brace_token.span.close().start());
        self.functions.push(Function { name: of.ident.to_string(), takes_self: of.receiver().is_some(), extent });
    }
}

impl<'ast> Visit<'ast> for Outline {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
        visit::visit_item_use(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let of = match (&item.trait_, &*item.self_ty) {
            (None, Type::Path(of)) => of.path.segments.last(),
            _ => None,
        };
        let names = item.items.iter().filter_map(|item| match item {
            ImplItem::Fn(item) => Some(item.sig.ident.to_string()),
            ImplItem::Const(item) => Some(item.ident.to_string()),
            ImplItem::Type(item) => Some(item.ident.to_string()),
            _ => None,
        });
        let span = item.brace_token.span;
        let extent = Extent(span.open().start(), span.close().start());
        self.impls.extend(of.map(|of| Impl { name: of.ident.to_string(), items: names.collect(), extent }));
        visit::visit_item_impl(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        item.default.iter().for_each(|body| self.function(&item.sig, body));
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_visibility(&mut self, visibility: &'ast Visibility) {
        self.public_items += usize::from(!matches!(visibility, Visibility::Inherited));
    }

    fn visit_field(&mut self, _: &'ast syn::Field) {}
}

/// What is defined directly here, not inside of a block.
pub fn names(items: &[Item]) -> Vec<String> {
    let name = |item: &Item| match item {
        Item::Fn(item) => Some(item.sig.ident.to_string()),
        Item::Struct(item) => Some(item.ident.to_string()),
        Item::Enum(item) => Some(item.ident.to_string()),
        Item::Union(item) => Some(item.ident.to_string()),
        Item::Trait(item) => Some(item.ident.to_string()),
        Item::Type(item) => Some(item.ident.to_string()),
        Item::Const(item) => Some(item.ident.to_string()),
        Item::Static(item) => Some(item.ident.to_string()),
        Item::Mod(item) => item.content.is_some().then(|| item.ident.to_string()),
        Item::Macro(item) => item.ident.as_ref().map(ToString::to_string),
        _ => None,
    };
    items.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn words(tokens: &[Token]) -> Vec<&str> {
        tokens.iter().filter_map(Token::word).collect()
    }

    #[test]
    fn comments_and_text_are_no_code() {
        let text = "// unsafe\n/* a /* b */ unsafe */ const X: A = (\"unsafe \\\" unsafe\", '\"');\ntype L<'static> = R<r#\"\"unsafe\"#>;";
        let all = tokens(text.parse().expect("tokens"));
        assert_eq!(words(&all), ["const", "X", "A", "type", "L", "R"]);
        assert_eq!(all.last().map(|token| token.at.line), Some(3));
    }

    #[test]
    fn items_under_cfg_test_are_left_out() {
        let text = "mod a; #[cfg(test)] mod tests { fn x() { { } } } fn y() {} /** Its doc. */ #[cfg(test)] mod more; \
                    #[cfg(test)] #[path = \"x_tests.rs\"] mod x; fn z() {} #[cfg(test)] fn w<T>() where T: A, U: B {} \
                    struct S { #[cfg(test)] a: HashMap<K, V>, b: C, #[cfg(test)] d: E }";
        let file = &tree(&[("src/a.rs", text)])[0];
        assert_eq!(words(&file.code), ["mod", "a", "fn", "y", "fn", "z", "struct", "S", "b", "C"]);
        assert_eq!(file.test_modules, [("more".to_owned(), false), ("x_tests".to_owned(), true)]);
    }

    #[test]
    fn imports_and_paths_are_written_out() {
        let text =
            "use a::{self, b::{C, D as E}, f::*}; pub(crate) use super::G; fn h() { use crate::I as _; m!(n::o::p) }";
        let file = &tree(&[("src/a.rs", text)])[0];
        let found = file.outline.imports.iter();
        let found = found.map(|import| format!("{} {} {}", import.name, import.path.join("::"), import.is_public));
        let expected =
            ["a a false", "C a::b::C false", "E a::b::D false", "* a::f false", "G super::G true", "_ crate::I false"];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let paths: Vec<_> = file.paths().into_iter().map(|(_, path)| path.join("::")).collect();
        assert_eq!(paths, ["a", "a::b::C", "a::b::D", "a::f", "super::G", "crate::I", "n::o::p"]);
    }
}
