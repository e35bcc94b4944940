//! Section F: ICMP through the translation.

use crate::*;

#[test]
fn rows_71_and_72_errors_find_the_connection_they_are_about() {
    let (mut switch, c, router) = Switch::with_uplink();
    let third = Ipv4Addr::new(203, 0, 113, 9);
    let sent = packet::udp(via(&c), c.at(5000), server(53), b"question");
    switch.send(&c, &sent);
    let shown = one(&router);
    // From a router on the way, about what went out, quoting as little as allowed.
    for quoted in [&shown[14..], &shown[14..14 + 28]] {
        switch.send(&router, &packet::icmp_error(via(&router), third, EXTERNAL, Error::TimeExceeded, quoted));
        let told = one(&c);
        let ip = Ipv4::parse(&told[14..]).unwrap();
        assert_eq!((ip.src, ip.dst), (third, c.ip));
        let (kind, _, inner) = icmp_error(&told);
        assert_eq!(kind, 11);
        let inner_ip = Ipv4::parse_quoted(&inner).unwrap();
        assert_eq!((inner_ip.src, inner_ip.dst, inner_ip.ttl), (c.ip, SERVER, 63));
        assert_eq!(inner[20..24], sent[34..38], "ports as the container knows them");
        assert_eq!(inner[26..28], sent[40..42], "and the checksum that it computed");
    }
    // From the container, about what came in.
    switch.send(&router, &packet::udp(via(&router), server(53), read(&shown).src, b"answer"));
    let delivered = one(&c);
    switch.send(&c, &packet::icmp_error(via(&c), c.ip, SERVER, Error::PortUnreachable, &delivered[14..]));
    let told = one(&router);
    let ip = Ipv4::parse(&told[14..]).unwrap();
    assert_eq!((ip.src, ip.dst), (EXTERNAL, SERVER));
    let inner_ip = Ipv4::parse_quoted(&icmp_error(&told).2).unwrap();
    assert_eq!((inner_ip.src, inner_ip.dst), (SERVER, EXTERNAL));
    // About nothing that we know.
    let stranger = packet::udp(via(&c), external(62_345), server(9), b"x");
    switch.send(
        &router,
        &packet::icmp_error(via(&router), third, EXTERNAL, Error::TimeExceeded, &stranger[14..]),
    );
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_70_a_bad_checksum_ends_an_error() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let shown = one(&router);
    let error = packet::icmp_error(via(&router), ROUTER, EXTERNAL, Error::TimeExceeded, &shown[14..]);
    let mut bad = error.clone();
    bad[37] ^= 1;
    switch.send(&router, &bad);
    nothing(&c);
    switch.send(&router, &error);
    one(&c);
    settle(&switch);
}
