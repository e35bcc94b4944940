//! Section E: TCP.

use crate::*;

#[test]
fn row_61_an_unsolicited_syn_finds_silence() {
    let (mut switch, c, router) = Switch::with_uplink();
    let syn = Tcp { flags: SYN, ..Tcp::default() };
    switch.send(&router, &packet::tcp(via(&router), server(80), external(62_000), syn, b""));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    switch.send(&router, &packet::tcp(via(&router), server(80), external(22), syn, b""));
    assert_eq!(switch.totals().left_to_host, 1, "port 22 is the host's");
    settle(&switch);
}
