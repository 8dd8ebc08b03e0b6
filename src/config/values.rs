//! Parsers of the texts in the file: each gives the model's value or says what is wrong.

pub(super) mod address;
pub(super) mod path;
pub(super) mod status;
pub(super) mod text;

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub code: &'static str,
    /// Stands under the caret.
    pub cause: String,
    pub help: Option<String>,
}

impl Complaint {
    fn new(cause: impl Into<String>) -> Self {
        Complaint {
            code: "bad-value",
            cause: cause.into(),
            help: None,
        }
    }

    fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// `"text"` in the help, as it can be pasted.
    fn suggest(self, text: &str) -> Self {
        self.help(format!("write \"{text}\""))
    }
}
