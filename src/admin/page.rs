//! The live page: embedded files, nothing from outside, no data in any of them.

use http::StatusCode;

use super::reply::{self, Reply};

const HTML: &str = include_str!("assets/index.html");
const SCRIPT: &str = include_str!("assets/app.js");
const STYLE: &str = include_str!("assets/app.css");
const ICON: &str = include_str!("assets/icon.svg");

/// The part of the page at `path`.
pub(super) fn part(path: &str) -> Option<Reply> {
    let (content_type, body) = match path {
        "/" => ("text/html; charset=utf-8", HTML),
        "/app.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/app.css" => ("text/css; charset=utf-8", STYLE),
        "/icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(reply::reply(StatusCode::OK, content_type, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_outside_and_has_no_inline_code() {
        for text in [HTML, SCRIPT, STYLE] {
            assert!(!text.contains("https://") && !text.contains("@import"));
        }
        assert!(HTML.contains("src=\"app.js\"") && HTML.contains("href=\"app.css\""));
        assert!(
            !HTML.contains("<style") && !HTML.contains(" style=") && !HTML.contains(" onclick=")
        );
        assert!(
            !SCRIPT.contains("innerHTML"),
            "names come from the configuration: text nodes only"
        );
    }
}
