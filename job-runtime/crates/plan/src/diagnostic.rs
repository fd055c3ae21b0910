//! What is wrong in a job file, where, and what to write instead.
//!
//! Owns the rendering of every message about a user's text. It decides nothing about the text itself.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::Span;

/// One problem at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where; `None` if the whole file is meant.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// A few words under the caret.
    pub label: Option<String>,
    /// What to write instead.
    pub help: Vec<String>,
    /// It follows from a problem that is told already, and is not told.
    consequence: bool,
}

impl Diagnostic {
    /// A problem at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), message: message.into(), label: None, help: Vec::new(), consequence: false }
    }

    /// What cannot be planned because of a problem elsewhere, which is told there.
    pub(crate) fn consequence(span: Span) -> Self {
        Self { consequence: true, ..Self::at(span, "what this needs could not be planned") }
    }

    pub(crate) fn is_consequence(&self) -> bool {
        self.consequence
    }

    /// A problem of the file as a whole.
    pub fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), label: None, help: Vec::new(), consequence: false }
    }

    /// Adds a few words under the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds what to write instead, if there is something to say.
    #[must_use]
    pub fn help_if(mut self, help: Option<String>) -> Self {
        self.help.extend(help);
        self
    }
}

/// All problems of one file, with the file's text to show them in.
#[derive(Clone)]
pub struct Diagnostics {
    file_name: String,
    text: Arc<str>,
    items: Vec<Diagnostic>,
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    /// Problems of a file.
    pub fn new(file_name: impl Into<String>, text: Arc<str>, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|d| d.span.map(|s| s.start));
        Self { file_name: file_name.into(), text, items }
    }

    /// The problems, in order of their place.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Line and column, both from 1, of a problem. Columns count characters.
    pub fn line_column(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        diagnostic.span.map(|span| line_column(&self.text, span.start))
    }

    /// One line per problem, `file:line:column: message`, as conditions and logs want it.
    pub fn summary(&self) -> String {
        let line = |d: &Diagnostic| match self.line_column(d) {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.file_name, d.message),
            None => format!("{}: {}", self.file_name, d.message),
        };
        self.items.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The problems for people: place, lines of the file, caret, help.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for diagnostic in &self.items {
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&self.render_one(&renderer, diagnostic));
        }
        out
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let mut group = match diagnostic.span {
            Some(span) => {
                let range = clamp(&self.text, span);
                let mut caret = AnnotationKind::Primary.span(range);
                if let Some(label) = &diagnostic.label {
                    caret = caret.label(label.as_str());
                }
                Level::ERROR
                    .primary_title(diagnostic.message.as_str())
                    .element(Snippet::source(self.text.as_ref()).path(self.file_name.as_str()).annotation(caret))
            }
            None => Level::ERROR
                .primary_title(diagnostic.message.as_str())
                .element(annotate_snippets::Origin::path(self.file_name.as_str())),
        };
        for help in &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// A range that lies in `text`, on character boundaries and within one line where it would run over several.
fn clamp(text: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |mut i: usize| {
        i = i.min(text.len());
        while !text.is_char_boundary(i) {
            i -= 1;
        }
        i
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line_end = text[start..end].find('\n').map_or(end, |n| start + n);
    start..line_end
}

fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let start = clamp(text, Span { start: offset, end: offset }).start;
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The name in `known` nearest to `written`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (written.chars().count().max(name.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean `x`?", or nothing.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, known).map(|name| format!("did you mean `{name}`?"))
}

/// "`a`, `b` and `c`".
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
