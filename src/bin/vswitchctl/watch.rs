//! `ct watch`: connections as they come, change and go, found by asking again and again. What lives shorter
//! than the interval is not seen.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use vswitchd::addr::Protocol;
use vswitchd::control::client::Client;
use vswitchd::control::error::Error;
use vswitchd::control::request::{CtFilter, Request};
use vswitchd::control::response::{ConnectionInfo, Flow};

use crate::render::connection_cells;
use crate::{Output, unless_closed};

const INTERVAL: Duration = Duration::from_millis(500);

type Connections = HashMap<(Protocol, Flow, Flow), ConnectionInfo>;

/// Prints changes until the reader or the daemon goes away.
pub(crate) fn connections(
    client: &Client,
    filter: CtFilter,
    output: Output,
    out: &mut impl Write,
) -> Result<(), Error> {
    let request = Request::CtLs(filter);
    let mut before = by_key(client.call(&request)?);
    loop {
        std::thread::sleep(INTERVAL);
        let now = by_key(client.call(&request)?);
        let lines: String = changes(&before, &now).iter().map(|(event, c)| line(event, c, output)).collect();
        if let Err(error) = out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
            return unless_closed(&error);
        }
        before = now;
    }
}

fn by_key(connections: Vec<ConnectionInfo>) -> Connections {
    connections.into_iter().map(|c| ((c.proto, c.original, c.reply), c)).collect()
}

fn changes<'a>(before: &'a Connections, now: &'a Connections) -> Vec<(&'static str, &'a ConnectionInfo)> {
    let mut changes: Vec<_> =
        before.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, c)| ("DESTROY", c)).collect();
    for (key, connection) in now {
        match before.get(key) {
            None => changes.push(("NEW", connection)),
            Some(old) if old.state != connection.state => changes.push(("UPDATE", connection)),
            Some(_) => {}
        }
    }
    changes
}

fn line(event: &str, connection: &ConnectionInfo, output: Output) -> String {
    if output == Output::Json {
        let mut object = serde_json::json!(connection);
        object["event"] = event.into();
        return format!("{object}\n");
    }
    format!("{event:<8}{}\n", connection_cells(connection, output == Output::Wide).join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(sport: u16, state: &str) -> ConnectionInfo {
        let flow = serde_json::json!({"src": "10.0.0.1", "sport": sport, "dst": "10.0.0.2", "dport": 80});
        let both = serde_json::json!({"original": 1, "reply": 1});
        serde_json::from_value(serde_json::json!({
            "proto": "tcp", "state": state, "port": "web", "network": "default", "original": flow,
            "reply": flow, "expires_seconds": 1, "packets": both, "bytes": both, "nat": "snat",
        }))
        .unwrap()
    }

    #[test]
    fn changes_are_new_update_and_destroy() {
        let before = by_key(vec![connection(1, "established"), connection(2, "established")]);
        let now = by_key(vec![connection(2, "closing"), connection(3, "syn-sent")]);
        let mut seen: Vec<_> =
            changes(&before, &now).iter().map(|(event, c)| (*event, c.original.sport)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [("DESTROY", 1), ("NEW", 3), ("UPDATE", 2)]);
        assert!(line("NEW", &connection(1, "x"), Output::Json).contains("\"event\":\"NEW\""));
    }
}
