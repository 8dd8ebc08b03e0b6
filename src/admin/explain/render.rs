//! An explanation for a terminal.

use std::fmt;
use std::fmt::Write;

use super::{Explanation, LimitView, ServerVerdict};

impl Explanation {
    /// True when a route takes the request.
    pub fn is_routed(&self) -> bool {
        self.route.is_some() && self.refused.is_none()
    }

    /// For a terminal.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} {}", self.method, self.url)?;
        write!(out, "  listener  {}", self.listener)?;
        match &self.listener_note {
            Some(note) => writeln!(out, "  ({note})")?,
            None => writeln!(out)?,
        }
        let line = |out: &mut String, name: &str, text: &str| writeln!(out, "  {name:<9} {text}");
        match &self.client_note {
            Some(note) => line(out, "client", &format!("{}  ({note})", self.client))?,
            None => line(out, "client", &self.client)?,
        }
        if !self.dropped.is_empty() {
            let names = self.dropped.join(", ");
            line(out, "dropped", &format!("{names}  (underscore-headers)"))?;
        }
        for (name, text) in [
            ("host", &self.host),
            ("path", &self.path),
            ("goes on", &self.forwarded),
        ] {
            if let Some(text) = text {
                line(out, name, text)?;
            }
        }
        if let Some(route) = &self.route {
            line(out, "route", route)?;
        }
        for other in &self.held_to {
            line(
                out,
                "held to",
                &format!("{other} as well, for which the path is another spelling"),
            )?;
        }
        for limit in &self.limits {
            line(out, "limit", &limit.to_string())?;
        }
        if let Some(refused) = &self.refused {
            match refused.starts_with("404 ") {
                true => line(out, "route", &format!("none: {refused}"))?,
                false => line(out, "refused", refused)?,
            }
            return self.write_routes(out);
        }
        if let Some(upstream) = &self.upstream {
            let note = match self.panic {
                true => "  (panic: failed checks are ignored)",
                false => "",
            };
            line(out, "upstream", &format!("{upstream}{note}"))?;
        }
        if let Some(answer) = &self.answer {
            line(out, "answer", answer)?;
        }
        if let Some(limit) = self.concurrency_limit {
            let text = format!("{limit} requests are in flight, its limit now: new ones queue");
            line(out, "waits", &text)?;
        }
        for sticky in &self.sticky {
            line(out, "sticky", sticky)?;
        }
        self.write_servers(out)?;
        if let Some(unavailable) = &self.unavailable {
            line(out, "none", unavailable)?;
        }
        if let Some(mirror) = &self.mirror {
            line(out, "mirror", mirror)?;
        }
        self.write_routes(out)
    }

    fn write_servers(&self, out: &mut String) -> std::fmt::Result {
        let width = self
            .servers
            .iter()
            .map(|server| server.name().len())
            .max()
            .unwrap_or(0);
        for server in &self.servers {
            let chance = server.chance * 100.0;
            write!(out, "    {:width$}  {chance:5.1}%", server.name())?;
            match &server.why_not {
                Some(why) => writeln!(out, "  {why}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    fn write_routes(&self, out: &mut String) -> std::fmt::Result {
        let others: Vec<_> = self.routes.iter().filter(|route| !route.chosen).collect();
        if others.is_empty() {
            return Ok(());
        }
        writeln!(out, "  not chosen")?;
        let width = others
            .iter()
            .map(|route| route.name.len())
            .max()
            .unwrap_or(0);
        for route in others {
            writeln!(
                out,
                "    {:width$}  {}  ({})",
                route.name, route.why, route.origin
            )?;
        }
        Ok(())
    }
}

impl ServerVerdict {
    /// With its upstream where there are several.
    fn name(&self) -> String {
        let address = match &self.upstream {
            Some(upstream) => format!("{upstream}/{}", self.address),
            None => self.address.clone(),
        };
        match self.names.as_slice() {
            [] => address,
            names => format!("{address} ({})", names.join(", ")),
        }
    }
}

impl fmt::Display for LimitView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LimitView {
            route,
            rate,
            burst,
            key,
        } = self;
        write!(f, "{rate}, at most {burst} at once, {key}  (of {route})")
    }
}
