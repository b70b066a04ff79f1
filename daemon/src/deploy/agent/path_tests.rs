//! Every string of every deploy command, replaced by what a machine that lies would write there: the engine is asked for
//! the containers and images that were named, and for nothing else.

use crate::deploy::agent::instances::tests::{OnDisk, kept};
use crate::deploy::agent::logs;
use crate::deploy::agent::ops;
use crate::state::instances::InstanceRecord;
use ployz_core::address::AddressPlan;
use ployz_core::spec::container::container_name;
use ployz_core::wire::v1::deploy::{DeployCommand, Instances};
use ployz_core::wire::v1::manifest::ImageRef;
use ployz_engine::docker::Docker;
use ployz_engine::fake::{Fake, instance};
use ployz_engine::hostile;
use ployz_host::clock;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CONTAINER: &str = "c1";

/// One of each command about the instance that runs.
fn commands(one: &InstanceRecord) -> Vec<Value> {
    let owner = &one.owner;
    let common = json!({"network": owner.network, "namespace": owner.namespace, "deploy": owner.deploy,
        "not_after": clock::now() + 3_600, "instances": [owner.instance], "at_most": "1ms", "tail": 5,
        "instance": owner.instance, "images": ["web:1"], "publish": [], "releases": [owner.instance], "starts": 1,
        "services": {"web": one.service}, "candidates": [{"instance": owner.instance, "service": "web", "slot": 0,
        "revision": "v1:x", "content": "v1:y"}]});
    let names = ["probe", "start", "readiness", "stop", "restore", "drain", "remove", "list", "logs"];
    let of = |name: &str| {
        let mut command = common.clone();
        command["command"] = format!("deploy.{name}").into();
        command
    };
    names.map(of).into()
}

/// What an image may be looked for by.
fn names(image: &ImageRef) -> impl Iterator<Item = String> {
    let (digest, tag) = (image.digest(), image.digest_tag());
    let pinned = digest.map(String::from).into_iter().chain(tag.map(String::from));
    std::iter::once(image.to_string()).chain(pinned)
}

/// What a command makes of the engine, and what it may name there.
async fn carry_out(
    disk: &OnDisk,
    docker: &Docker,
    one: &InstanceRecord,
    command: DeployCommand,
) -> BTreeSet<String> {
    let mut slots = BTreeSet::from([CONTAINER.to_owned()]);
    let instances = |which: &Instances| -> BTreeSet<String> {
        which.instances.iter().map(|instance| container_name(&which.namespace, instance)).collect()
    };
    match command {
        DeployCommand::Probe(asked) => {
            for image in &asked.images {
                let _ = docker.held(image).await;
                slots.extend(names(image));
            }
        }
        DeployCommand::Start(asked) => {
            let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
            for candidate in &asked.candidates {
                let Some(service) = asked.services.get(&candidate.service) else { continue };
                let _ = docker.held(&service.image).await;
                let mut made = InstanceRecord { service: service.clone(), ..one.clone() };
                made.owner.namespace = asked.namespace.clone();
                made.owner.instance = candidate.instance.clone();
                made.owner.revision = candidate.revision.clone();
                let spec = made.spec(&plan.slice(0).unwrap());
                let _ = docker.create(&spec).await;
                let _ = docker.instance(&spec).await;
                slots.extend(names(&service.image));
                slots.insert(spec.name());
            }
        }
        DeployCommand::Stop(asked) | DeployCommand::Readiness(asked) => {
            let _ = ops::stop(&disk.local, docker, &asked).await;
            slots.extend(instances(&asked));
        }
        DeployCommand::Restore(asked) => {
            let _ = ops::restore(&disk.local, docker, &asked).await;
            slots.extend(instances(&asked));
        }
        DeployCommand::Drain(asked) => {
            let _ = ops::drain(&disk.local, docker, &asked).await;
            slots.extend(instances(&asked.which));
        }
        DeployCommand::Remove(asked) => {
            let _ = ops::remove(&disk.local, docker, &asked).await;
            slots.extend(instances(&asked));
        }
        DeployCommand::List(_) => drop(docker.list().await),
        DeployCommand::Logs(asked) => {
            let _ = logs::read(docker, &asked).await;
            slots.insert(container_name(&asked.namespace, &asked.instance));
        }
    }
    slots
}

#[test]
fn no_string_of_a_deploy_command_reaches_a_path_outside_its_slot() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (disk, fake, one) = (OnDisk::empty(), Fake::start("1.45"), kept("null"));
    let docker = runtime.block_on(fake.connect());
    let commands = commands(&one);
    for command in &commands {
        serde_json::from_value::<DeployCommand>(command.clone()).unwrap();
    }
    let attack = |text: &str| {
        for value in commands.iter().flat_map(|command| hostile::variants(command, text)) {
            let Ok(command) = serde_json::from_value::<DeployCommand>(value) else { continue };
            {
                let mut held = fake.state.lock();
                held.asked.clear();
                held.containers.clear();
            }
            fake.put(instance(CONTAINER, &one.owner));
            let mut slots = runtime.block_on(carry_out(&disk, &docker, &one, command));
            slots.extend(fake.state.lock().containers.keys().cloned());
            assert_eq!(hostile::strays(&fake, &slots), [] as [&str; 0], "{text}");
        }
    };
    hostile::TEXTS.iter().for_each(|text| attack(text));
    proptest!(ProptestConfig::with_cases(6), |(text in hostile::text())| attack(&text));
}
