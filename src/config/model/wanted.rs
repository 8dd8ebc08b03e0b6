//! A value that a condition waits for. What came from the environment may be a secret, which
//! `explain` must not say where `config show` does not.

/// Equal by its text alone.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub text: String,
    /// What is shown instead.
    pub masked: Option<String>,
}

impl Wanted {
    pub fn shown(&self) -> &str {
        self.masked.as_deref().unwrap_or(&self.text)
    }
}

impl From<&str> for Wanted {
    fn from(text: &str) -> Self {
        Wanted {
            text: text.to_owned(),
            masked: None,
        }
    }
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Wanted {}
