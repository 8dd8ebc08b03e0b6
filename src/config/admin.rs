//! `[admin]` of a file that may be broken elsewhere.
//!
//! A command that asks a running proxy about a file needs the address even when the file is what
//! is wrong. This reads that one table and takes nothing else for granted; it knows no includes.

use std::path::Path;

use super::model::{Admin, BindAddress, Secret};

/// `None`: the file cannot be read, or its table says nothing usable. `Some(None)`: it is off.
pub fn of_file(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Option<Option<Admin>> {
    let text = std::fs::read_to_string(path).ok()?;
    // Without any syntax the default address is the best guess.
    let file: toml::Table = text.parse().unwrap_or_default();
    let admin = file.get("admin").and_then(toml::Value::as_table);
    let value = |key: &str| {
        let value = admin?.get(key)?.as_str()?;
        expand(value, env)
    };
    let address = match value("address").as_deref() {
        Some("off") => return Some(None),
        Some(unix) if unix.starts_with("unix:") => {
            BindAddress::Unix(std::path::Path::new(&unix[5..]).into())
        }
        Some(address) => BindAddress::Tcp(address.parse().ok()?),
        None => BindAddress::Tcp(([127, 0, 0, 1], 9900).into()),
    };
    let token = value("token").filter(|token| !token.is_empty()).map(Secret);
    Some(Some(Admin {
        address,
        token,
        hosts: Vec::new(),
    }))
}

/// `${NAME}` and `${NAME:-default}`; `None` when one is unset.
fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}')?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        out.push_str(before);
        // As in a shell, `:-` also stands in for an empty value.
        let value = env(name).filter(|value| default.is_none() || !value.is_empty());
        out.push_str(&value.or_else(|| default.map(str::to_owned))?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Option<Admin>> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it is written");
        of_file(file.path(), &|name| {
            (name == "TOKEN").then(|| "s3cret".into())
        })
    }

    #[test]
    fn the_table_is_read_whatever_the_rest_says() {
        let admin =
            of("[admin]\naddress = \"unix:/run/a\"\ntoken = \"${TOKEN:-}\"\n[nonsense]\nx = 1\n");
        let admin = admin.flatten().expect("a table");
        assert_eq!(
            admin.address,
            BindAddress::Unix(std::path::Path::new("/run/a").into())
        );
        assert_eq!(admin.token, Some(Secret("s3cret".into())));
        let default = of("[[listener]\n").flatten().expect("the default");
        assert_eq!(
            default.address,
            BindAddress::Tcp(([127, 0, 0, 1], 9900).into())
        );
        assert_eq!(
            of("[admin]\ntoken = \"${NONE:-}\"")
                .flatten()
                .and_then(|admin| admin.token),
            None
        );
        assert_eq!(of("[admin]\naddress = \"off\""), Some(None));
        assert_eq!(of("[admin]\naddress = \"nowhere\""), None);
    }

    #[test]
    fn a_default_stands_in_for_an_empty_variable_as_in_the_proxy() {
        let env = |name: &str| (name == "EMPTY").then(String::new);
        assert_eq!(expand("${EMPTY:-dev}", &env).as_deref(), Some("dev"));
        assert_eq!(expand("${EMPTY}", &env).as_deref(), Some(""));
        assert_eq!(expand("${UNSET:-dev}", &env).as_deref(), Some("dev"));
        assert_eq!(expand("${UNSET}", &env), None);
    }
}
