//! `${NAME}` in string values, replaced after parsing: what the environment holds is a value and
//! can never add a key or end a string.
//!
//! `${request.id}` and its like stand for something of a request: they are taken out of the text
//! and kept beside it with their places, so that a literal `${` is never taken for one.

use crate::config::diagnostics::Problems;
use crate::config::model::Variable;
use crate::config::suggest::closest;
use crate::config::tree::{Node, Placed, Value, quote};

/// Replaces in every text below `root`. What came from the environment is masked wherever the
/// value is shown, because that is where secrets come from.
pub(super) fn replace(
    root: &mut Node,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) {
    root.visit_mut(&mut |node| {
        let Value::Text(text) = &node.value else {
            return;
        };
        if !text.contains("${") {
            return;
        }
        match expand(text, env) {
            Ok(Expanded {
                value,
                masked,
                secret,
                variables,
            }) => {
                node.masked = (secret || !variables.is_empty()).then_some(masked);
                node.variables = variables;
                node.value = Value::Text(value);
            }
            Err(Mistake {
                code,
                message,
                help,
            }) => {
                problems.error(code, node.span, message).help(help);
                // An empty text would be refused once more, for another reason.
                node.value = Value::Unknown;
            }
        }
    });
}

#[derive(Debug, PartialEq)]
struct Expanded {
    value: String,
    masked: String,
    secret: bool,
    variables: Vec<Placed>,
}

#[derive(Debug, PartialEq)]
struct Mistake {
    code: &'static str,
    message: String,
    help: String,
}

fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Mistake> {
    let mut out = Expanded {
        value: String::new(),
        masked: String::new(),
        secret: false,
        variables: Vec::new(),
    };
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.plain(before);
            out.value.push_str("${");
            out.masked.push_str("$${");
            rest = &from[2..];
            continue;
        }
        out.plain(before);
        let Some(end) = from.find('}') else {
            return Err(malformed("`${` without its `}`"));
        };
        out.variable(&from[2..end], env)?;
        rest = &from[end + 1..];
    }
    out.plain(rest);
    Ok(out)
}

impl Expanded {
    fn plain(&mut self, text: &str) {
        self.value.push_str(text);
        self.masked.push_str(text);
    }

    fn variable(
        &mut self,
        inside: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), Mistake> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.contains('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            return self.request_variable(name, default.is_some());
        }
        let mut bytes = name.bytes();
        let valid = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !valid {
            let group = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
            return Err(Mistake {
                help: match group {
                    true => format!("a group of a regular expression is `${name}`, without braces"),
                    false => malformed("").help,
                },
                ..malformed(&format!(
                    "{} is not the name of an environment variable",
                    quote(name)
                ))
            });
        }
        match (env(name), default) {
            // As in a shell, `:-` also stands in for an empty value.
            (Some(value), None) => self.secret(&value),
            (Some(value), Some(_)) if !value.is_empty() => self.secret(&value),
            (_, Some(default)) => self.plain(default),
            (None, None) => {
                return Err(Mistake {
                    code: "unset-variable",
                    message: format!("the environment variable `{name}` is not set"),
                    help: format!("set it, or give a default: `${{{name}:-...}}`"),
                });
            }
        }
        Ok(())
    }

    fn request_variable(&mut self, name: &str, has_default: bool) -> Result<(), Mistake> {
        if has_default {
            return Err(Mistake {
                code: "bad-variable",
                message: format!(
                    "the request variable {} cannot have a default",
                    quote(&format!("${{{name}}}"))
                ),
                help: format!("write `${{{name}}}`"),
            });
        }
        let Some(variable) = Variable::find(name) else {
            let names = Variable::ALL.map(Variable::name);
            return Err(Mistake {
                code: "unknown-variable",
                message: format!(
                    "there is no request variable {}",
                    quote(&format!("${{{name}}}"))
                ),
                help: match closest(name, names.into_iter()) {
                    Some(near) => format!("did you mean `${{{near}}}`?"),
                    None => format!("there are {}", names.join(", ")),
                },
            });
        };
        self.variables.push(Placed {
            at: self.value.len(),
            variable,
        });
        self.masked.push_str(&format!("${{{name}}}"));
        Ok(())
    }

    fn secret(&mut self, value: &str) {
        self.value.push_str(value);
        self.masked.push_str("***");
        self.secret = true;
    }
}

fn malformed(message: &str) -> Mistake {
    Mistake {
        code: "bad-variable",
        message: message.to_owned(),
        help: "write `${NAME}` or `${NAME:-default}`, and `$${` for a literal `${`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn value(text: &str) -> Result<String, &'static str> {
        expand(text, &env)
            .map(|out| out.value)
            .map_err(|mistake| mistake.code)
    }

    #[test]
    fn variables_defaults_and_literals() {
        assert_eq!(value("a ${SET} b"), Ok("a value b".to_owned()));
        assert_eq!(value("${UNSET:-x:-y}"), Ok("x:-y".to_owned()));
        assert_eq!(value("${UNSET:-}"), Ok(String::new()));
        assert_eq!(value("${EMPTY:-x}"), Ok("x".to_owned()));
        assert_eq!(value("${EMPTY}"), Ok(String::new()));
        assert_eq!(value("$${SET} $5 $"), Ok("${SET} $5 $".to_owned()));
        assert_eq!(value("${UNSET}"), Err("unset-variable"));
        assert_eq!(value("a${request.id}b"), Ok("ab".to_owned()));
        assert_eq!(value("${request.idd}"), Err("unknown-variable"));
        assert_eq!(value("${request.id:-x}"), Err("bad-variable"));
        assert_eq!(value("${1}"), Err("bad-variable"));
        assert_eq!(value("${SET"), Err("bad-variable"));
        assert_eq!(value("${}"), Err("bad-variable"));
        assert_eq!(value("${9A}"), Err("bad-variable"));
    }

    #[test]
    fn only_what_the_environment_gave_is_masked() {
        let out = expand("${SET}:${UNSET:-80}", &env).unwrap();
        assert_eq!(
            (out.value.as_str(), out.masked.as_str(), out.secret),
            ("value:80", "***:80", true)
        );
        assert!(!expand("${UNSET:-80}", &env).unwrap().secret);
    }

    #[test]
    fn request_variables_are_kept_beside_the_text() {
        let out = expand("${SET}$${client.ip}${client.ip}/${route.name}", &env).unwrap();
        assert_eq!(out.value, "value${client.ip}/");
        assert_eq!(out.masked, "***$${client.ip}${client.ip}/${route.name}");
        let places: Vec<_> = out
            .variables
            .iter()
            .map(|one| (one.at, one.variable))
            .collect();
        assert_eq!(
            places,
            [(17, Variable::ClientIp), (18, Variable::RouteName)]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(text in "([$\\{\\}:a-zA-Z.\\-]|\\PC){0,40}") {
            let _ = expand(&text, &env);
        }
    }
}
