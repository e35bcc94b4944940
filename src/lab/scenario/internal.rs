//! A network without a way out, and what changes when it gets one.

use super::{Check, Scenario, Stage};
use crate::control::request::Request;
use crate::control::response::{Done, NetworkInfo};
use crate::lab::rig::INTERNET;
use crate::lab::traffic::{self, SILENCE};
use crate::lab::world::{Container, Failure, Lab, ensure, reaches, tell};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "internal",
        elsewhere: &[
            "docker network create --internal vault",
            "iptables -A DOCKER-ISOLATION-STAGE-1 ! -s 10.30.0.0/24 -o br-vault -j DROP, and so on",
        ],
        checks: &[
            Check {
                claim: "containers on an internal network reach each other and nobody else",
                run: inside,
            },
            Check { claim: "nothing can be published there", run: unpublished },
            Check { claim: "its mode is changed while containers run", run: opened_and_closed },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.ctl::<NetworkInfo>("network create vault --subnet 10.30.0.0/24 --mode internal")?;
    lab.attach("v1", "vault", "")?;
    lab.attach("v2", "vault", "")?;
    Ok(lab)
}

fn does_not_reach_out(from: &Container) -> Result<(), Failure> {
    let name = &from.port.name;
    // The gateway says that the network is unreachable, which may end the question itself.
    let answer = traffic::ping(&from.netns, INTERNET, SILENCE).unwrap_or(None);
    ensure(answer.is_none(), || format!("the internet answers {name}"))?;
    tell(format_args!("{name} pings {INTERNET}: nothing"));
    Ok(())
}

fn inside(lab: &Lab) -> Result<(), Failure> {
    let (one, two) = (lab.container("v1")?, lab.container("v2")?);
    reaches(one, two.ip)?;
    reaches(two, lab.gateway("vault")?.1)?;
    does_not_reach_out(one)
}

fn unpublished(lab: &Lab) -> Result<(), Failure> {
    tell("$ vswitchctl publish add 8080:80 --to v1");
    let refused = lab.switch.ask::<serde_json::Value>(&Request::from_line("publish add 8080:80 --to v1")?);
    let error = refused.err().ok_or("it is published")?;
    tell(format_args!("error: {error}"));
    ensure(error.to_string().contains("internal"), || error.to_string())
}

fn opened_and_closed(lab: &Lab) -> Result<(), Failure> {
    let one = lab.container("v1")?;
    lab.ctl::<Done>("network set vault mode=nat mtu=1400")?;
    reaches(one, INTERNET)?;
    lab.ctl::<Done>("network set vault mode=internal")?;
    does_not_reach_out(one)
}
