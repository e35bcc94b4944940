//! Tables: data structures with a bound, an order of eviction, and no idea of locks, clocks or I/O.

pub mod conntrack;
pub mod datagram_ids;
pub mod fragment_table;
pub mod mac_table;
pub mod neighbor_table;
pub mod policy;
pub mod port_pool;
pub mod rate_limit;
pub mod route_table;
