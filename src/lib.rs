//! vswitchd: a userspace virtual switch and NAT router for Linux.
//!
//! Read [`pipeline`] first: its one function `story` is the way of a frame through the switch. The crate
//! is built in layers, each of which may import only what stands above it in this list
//! (`tests/layering.rs` reads the sources and says so):
//!
//! | layer | modules | is about |
//! |---|---|---|
//! | words | [`addr`] [`clock`] [`counters`] [`drops`] [`limits`] | names of things, bounds, numbers |
//! | bytes | [`frame`] [`wire`] | checked views of frames, checksums, offload promises |
//! | tables | [`table`] | FDB, neighbors, routes, fragments, conntrack; no clock, no lock, no I/O |
//! | decision | [`snapshot`] [`shared`] [`pipeline`] | what becomes of a frame |
//! | edge | [`port`] [`coalesce`] [`offload`] [`worker`] | devices, and the loop that moves frames |
//! | control | [`control`] [`service`] [`host`] | requests, the API, DHCP, DNS, netlink, namespaces, the uplink guard |
//! | composition | [`daemon`] [`lab`] [`sim`] | the program, its laboratory, a switch in memory |

pub mod addr;
pub mod clock;
pub mod coalesce;
pub mod control;
pub mod counters;
pub mod daemon;
pub mod drops;
pub mod frame;
pub mod host;
pub mod lab;
pub mod limits;
pub mod offload;
pub mod pipeline;
pub mod port;
pub mod service;
pub mod shared;
pub mod sim;
pub mod snapshot;
pub mod table;
pub mod wire;
pub mod worker;
