//! The operations an operator can ask for. One at a time changes anything; reading never waits for them.

use crate::clock;
use crate::disk::{Backend, Founder, Keys, NetworkFile, PeersFile, Stored};
use crate::failure::{Failure, Result};
use crate::membership::{draft, issue, join};
use crate::mesh::remote::{self, Command};
use crate::mesh::{Mesh, Shared, desired, teardown};
use crate::random;
use ployz_core::address::{NodeSubnet, OverlayPrefix, candidates};
use ployz_core::adopt::Seen;
use ployz_core::config::{BackendChoice, Config, Origin};
use ployz_core::id::{InviteId, MachineId, NetworkId, NetworkName};
use ployz_core::wire::v1::api::{ErrorCode, InviteRow, Phase};
use ployz_core::wire::v1::record::{
    Lifecycle, MachineMembership, RegionRole, StorageParticipation, Topology,
};
use ployz_core::wire::v1::token::{BadToken, Token};
use ployz_netns::underlay;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The daemon.
pub struct Daemon {
    /// What all networks share.
    pub shared: Arc<Shared>,
    /// Unix seconds.
    pub started_at: u64,
    current: RwLock<Option<Arc<Mesh>>>,
    exclusive: tokio::sync::Mutex<()>,
}

/// Tells the caller what is being done.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

impl Daemon {
    /// A daemon without a running network.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            started_at: clock::now(),
            current: RwLock::new(None),
            exclusive: tokio::sync::Mutex::new(()),
        })
    }

    /// The running network.
    pub fn current(&self) -> Option<Arc<Mesh>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The running network, or the failure that says there is none.
    pub fn running(&self) -> Result<Arc<Mesh>> {
        self.current()
            .ok_or_else(|| Failure::new(ErrorCode::NoRunningNetwork, "no network is running on this machine"))
    }

    /// At the daemon's start: takes up what should be running. Trouble is logged, never fatal: the data plane is
    /// better left alone with a daemon that can say so.
    pub async fn resume(self: &Arc<Self>) {
        let _alone = self.exclusive.lock().await;
        if let Err(failure) = join::clear_leftover(&self.shared).await {
            tracing::error!("{failure}: {}", failure.causes.join(": "));
        }
        let active = match self.shared.disk.active() {
            Ok(Some(name)) => name,
            Ok(None) => return,
            Err(error) => return tracing::error!("{}", ployz_netns::chain(&error)),
        };
        if let Err(failure) = self.resume_network(&active).await {
            tracing::error!(network = %active, "cannot resume: {failure}: {}", failure.causes.join(": "));
        }
    }

    async fn resume_network(self: &Arc<Self>, name: &NetworkName) -> Result<()> {
        let (network, keys) = self.load(name)?;
        match network.lifecycle {
            // A stop or a destruction that was cut short: the record said so first, the data plane follows.
            Stored::Stopped => self.finish_stop(&network, &keys).await,
            Stored::Leaving => {
                self.finish_stop(&network, &keys).await?;
                Ok(self.shared.disk.remove_network(name)?)
            }
            Stored::Running => self.bring_up(network, keys, "daemon start").await.map(|_| ()),
            Stored::Joining { .. } => {
                let mesh = self.bring_up(network, keys, "daemon start").await?;
                tokio::spawn(self.clone().finish_join(mesh));
                Ok(())
            }
        }
    }

    /// Takes down what a network that is not running any more has left, from what is on disk.
    async fn finish_stop(&self, network: &NetworkFile, keys: &Keys) -> Result<()> {
        let peers = self.shared.disk.peers(&network.name)?;
        let spec = desired::node(&self.shared.around, &self.shared.disk, network, keys, &peers, clock::now());
        let left = teardown::run(&self.shared.reconciler, &spec).await;
        if left.is_empty() {
            return Ok(self.shared.disk.set_active(None)?);
        }
        Err(Failure::new(ErrorCode::NetworkStopFailed, "some parts could not be taken down").with(left))
    }

    /// A join that is not confirmed yet: finished, or undone when the issuer says no or its time is over.
    async fn finish_join(self: Arc<Self>, mesh: Arc<Mesh>) {
        while !mesh.cancel.is_cancelled() {
            let failure = match join::confirm(&mesh).await {
                Ok(_) => return tracing::info!("the join was finished"),
                Err(failure) => failure,
            };
            let over = match mesh.network().lifecycle {
                Stored::Joining { until, .. } => clock::now() > until,
                _ => return,
            };
            tracing::warn!("the join is not finished: {failure}");
            if over || join::is_final(&failure) {
                let _alone = self.exclusive.lock().await;
                if self.is_current(&mesh) {
                    self.undo_join(&mesh).await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn undo_join(&self, mesh: &Arc<Mesh>) {
        let left = self.take_down(mesh).await;
        left.iter().for_each(|error| tracing::error!("undoing the join: {error}"));
        let gone = self.shared.disk.set_active(None);
        match gone.and_then(|()| self.shared.disk.remove_network(&mesh.network().name)) {
            Ok(()) => tracing::warn!("the join was undone"),
            Err(error) => tracing::error!("{}", ployz_netns::chain(&error)),
        }
    }

    fn is_current(&self, mesh: &Arc<Mesh>) -> bool {
        self.current().is_some_and(|current| Arc::ptr_eq(&current, mesh))
    }

    /// `mesh create`.
    pub async fn create(&self, name: &NetworkName) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.found(name).await
    }

    /// `mesh init`: create, start, wait until it can be used. A failure leaves nothing behind.
    pub async fn init(self: &Arc<Self>, name: &NetworkName, say: Say<'_>) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.nothing_running()?;
        let network = self.found(name).await?;
        match self.activate(network, say).await {
            Ok(network) => Ok(network),
            // What could not be taken down needs its record: `mesh destroy` is the way then.
            Err(failure) if self.shared.disk.active()?.is_some() => Err(failure),
            Err(failure) => {
                self.shared.disk.remove_network(name)?;
                Err(failure)
            }
        }
    }

    /// `mesh start`.
    pub async fn start(self: &Arc<Self>, name: &NetworkName, say: Say<'_>) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        let (network, _) = self.load(name)?;
        self.nothing_running()?;
        if matches!(network.lifecycle, Stored::Joining { .. }) {
            let message = format!("network {name} is still joining");
            return Err(Failure::new(ErrorCode::InvalidTransition, message));
        }
        self.activate(network, say).await
    }

    /// `mesh stop`. A stop that failed can be repeated.
    pub async fn stop(&self, force: bool) -> Result<NetworkName> {
        let _alone = self.exclusive.lock().await;
        let Some(mesh) = self.current() else {
            let half = self.shared.disk.active()?;
            let name = half.ok_or_else(|| {
                Failure::new(ErrorCode::NoRunningNetwork, "no network is running on this machine")
            })?;
            let (network, keys) = self.load(&name)?;
            self.finish_stop(&network, &keys).await?;
            return Ok(name);
        };
        if !force {
            self.no_workloads(&mesh).await?;
        }
        if matches!(mesh.network().lifecycle, Stored::Joining { .. }) {
            self.undo_join(&mesh).await;
            return Ok(mesh.network().name);
        }
        let network = mesh.change_network(|network| network.lifecycle = Stored::Stopped)?;
        let left = self.take_down(&mesh).await;
        if left.is_empty() {
            self.shared.disk.set_active(None)?;
            return Ok(network.name);
        }
        Err(Failure::new(ErrorCode::NetworkStopFailed, "some parts could not be taken down").with(left))
    }

    async fn no_workloads(&self, mesh: &Mesh) -> Result<()> {
        let message = match workloads(mesh).await {
            Some(0) => return Ok(()),
            Some(count) => format!("{count} workloads of this machine depend on the overlay"),
            None => "it cannot be told whether workloads of this machine depend on the overlay".to_owned(),
        };
        Err(Failure::new(ErrorCode::WorkloadsRunning, message))
    }

    /// `mesh join`.
    pub async fn join(self: &Arc<Self>, text: &str, say: Say<'_>) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.nothing_running()?;
        let token = read_token(text)?;
        self.acceptable(&token).await?;
        let keys = join::keys_for(&self.shared, &token)?;
        // An earlier attempt with this token may have got further than its answer.
        let earlier = self.shared.disk.network(&token.network_name)?.filter(|file| is_joining(file, &token));
        let network = match earlier {
            Some(file) => file,
            None => self.redeem(&token, &keys, say).await?,
        };
        self.shared.disk.set_active(Some(&network.name))?;
        say("starting the data plane");
        let mesh = self.bring_up(network, keys, "join").await?;
        say("confirming with this machine's own key");
        match join::confirm(&mesh).await {
            Ok(network) => {
                say("waiting for the store");
                if let Err(failure) = self.until_usable(&mesh).await {
                    tracing::warn!("joined, but {failure}");
                }
                Ok(network)
            }
            Err(failure) if join::is_final(&failure) => {
                self.undo_join(&mesh).await;
                Err(failure)
            }
            Err(mut failure) => {
                tokio::spawn(self.clone().finish_join(mesh));
                failure.hint = Some("the join goes on by itself; `ployzctl mesh ready` tells, `ployzctl mesh stop` gives it up".into());
                Err(failure)
            }
        }
    }

    async fn redeem(&self, token: &Token, keys: &Keys, say: Say<'_>) -> Result<NetworkFile> {
        let redeemed = join::redeem(&self.shared, token, keys, say).await;
        if let Err(failure) = &redeemed
            && join::is_final(failure)
        {
            self.shared.disk.remove_network(&token.network_name)?;
        }
        redeemed
    }

    /// `mesh destroy`.
    pub async fn destroy(&self, name: &NetworkName, local: bool, say: Say<'_>) -> Result<()> {
        let _alone = self.exclusive.lock().await;
        let (network, _) = self.load(name)?;
        let mesh = self.current().filter(|mesh| mesh.network().name == *name);
        if let (Some(mesh), false) = (&mesh, local) {
            self.no_workloads(mesh).await?;
            destroy_peers(mesh, say).await?;
        } else if !local && self.shared.disk.peers(name)?.machines.iter().any(|m| m.id != network.machine.id)
        {
            let message =
                format!("network {name} has other members and is not running here, so they cannot be told");
            return Err(Failure::new(ErrorCode::MeshDestroyPeersUnreachable, message));
        }
        if let (Some(mesh), true) = (&mesh, local) {
            withdraw(mesh).await;
        }
        say("removing this machine's part");
        self.remove_local(name, mesh).await
    }

    /// A peer destroyed the network.
    pub async fn leave(&self, mesh: Arc<Mesh>) {
        // The answer to the peer must be out before the tunnel is gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _alone = self.exclusive.lock().await;
        if !self.is_current(&mesh) {
            return;
        }
        let name = mesh.network().name;
        match self.remove_local(&name, Some(mesh)).await {
            Ok(()) => tracing::warn!(network = %name, "the network was destroyed"),
            Err(failure) => tracing::error!("{failure}: {}", failure.causes.join(": ")),
        }
    }

    /// `machine invite create`.
    pub async fn invite(&self, ttl_secs: u64, network: Option<NetworkName>) -> Result<issue::Made> {
        if !(1..=MAX_TTL).contains(&ttl_secs) {
            let message = format!("ttl_secs must be from 1 to {MAX_TTL}, not {ttl_secs}");
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let Some(name) = self.not_running(network)? else {
            return issue::create(&self.running()?, ttl_secs).await;
        };
        let _alone = self.exclusive.lock().await;
        let (network, keys) = self.load(&name)?;
        draft::create(&self.shared.disk, &network, &keys, ttl_secs)
    }

    /// `machine invite list`.
    pub async fn invites(&self, network: Option<NetworkName>) -> Result<Vec<InviteRow>> {
        match self.not_running(network)? {
            None => issue::list(&*self.running()?).await,
            Some(name) => draft::list(&self.shared.disk, &self.load(&name)?.0),
        }
    }

    /// `machine invite revoke`.
    pub async fn revoke_invite(&self, invite: &InviteId, network: Option<NetworkName>) -> Result<()> {
        let Some(name) = self.not_running(network)? else {
            return issue::revoke(&self.running()?, invite).await;
        };
        let _alone = self.exclusive.lock().await;
        draft::revoke(&self.shared.disk, &self.load(&name)?.0, invite)
    }

    /// The network that is asked for, unless it is the one that runs.
    fn not_running(&self, network: Option<NetworkName>) -> Result<Option<NetworkName>> {
        let running = self.current().map(|mesh| mesh.network().name);
        Ok(network.filter(|name| running.as_ref() != Some(name)))
    }

    /// Ends the tasks and leaves the data plane as it is.
    pub async fn detach(&self) {
        if let Some(mesh) = self.current() {
            mesh.detach().await;
        }
    }

    /// Removes a network from this machine. The record says so first and goes last, so that what is cut short is
    /// finished by the next start, and what failed can be repeated.
    async fn remove_local(&self, name: &NetworkName, mesh: Option<Arc<Mesh>>) -> Result<()> {
        match &mesh {
            Some(mesh) => {
                mesh.change_network(|network| network.lifecycle = Stored::Leaving)?;
                let left = self.take_down(mesh).await;
                if !left.is_empty() {
                    let message = "some parts could not be taken down";
                    return Err(Failure::new(ErrorCode::NetworkDestroyFailed, message).with(left));
                }
                self.shared.disk.set_active(None)?;
            }
            None if self.shared.disk.active()?.as_ref() == Some(name) => {
                let (network, keys) = self.load(name)?;
                self.finish_stop(&network, &keys).await?;
            }
            None => {}
        }
        Ok(self.shared.disk.remove_network(name)?)
    }

    async fn take_down(&self, mesh: &Arc<Mesh>) -> Vec<String> {
        mesh.phase.send_replace(Phase::Stopping);
        let left = mesh.tear_down().await;
        mesh.phase.send_replace(Phase::Stopped);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.reconciler.forget();
        left
    }

    async fn activate(self: &Arc<Self>, mut network: NetworkFile, say: Say<'_>) -> Result<NetworkFile> {
        let (_, keys) = self.load(&network.name)?;
        network.lifecycle = Stored::Running;
        network.machine.endpoints = self.endpoints(&network.id, network.plan.cluster_cidr).await?;
        self.shared.disk.put_network(&network)?;
        self.shared.disk.set_active(Some(&network.name))?;
        say("bringing up the data plane");
        let mesh = self.bring_up(network, keys, "mesh start").await?;
        let complaints = until_sure(&mesh).await;
        let network = mesh.network();
        let failed = if complaints.is_empty() {
            say("waiting for the store");
            match (network.is_founder(), self.until_usable(&mesh).await) {
                (_, Ok(())) => None,
                // A member starts although the founder is away: its tunnels are up, and it says what it lacks.
                (false, Err(_)) => None,
                (true, Err(failure)) => Some(failure),
            }
        } else {
            let held = complaints.iter().any(|line| line.contains(" is held: "));
            let code = if held { ErrorCode::ComponentHeld } else { ErrorCode::NetworkStartFailed };
            Some(Failure::new(code, "the data plane did not come up").with(complaints))
        };
        let Some(failure) = failed else { return Ok(network) };
        let left = self.take_down(&mesh).await;
        let mut stopped = network;
        stopped.lifecycle = Stored::Stopped;
        self.shared.disk.put_network(&stopped)?;
        if left.is_empty() {
            self.shared.disk.set_active(None)?;
        }
        Err(failure.with(left))
    }

    async fn bring_up(
        self: &Arc<Self>,
        network: NetworkFile,
        keys: Keys,
        trigger: &'static str,
    ) -> Result<Arc<Mesh>> {
        let (mesh, _) = Mesh::start(self.shared.clone(), network, keys, trigger).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(mesh.clone());
        let (daemon, watched) = (self.clone(), mesh.clone());
        tokio::spawn(async move {
            // Cancel-safe: a notification that is not awaited any more has nobody to tell.
            tokio::select! {
                () = watched.leave.notified() => daemon.leave(watched.clone()).await,
                () = watched.cancel.cancelled() => {}
            }
        });
        Ok(mesh)
    }

    async fn until_usable(&self, mesh: &Mesh) -> Result<()> {
        let mut phase = mesh.phase.subscribe();
        match tokio::time::timeout(USABLE, phase.wait_for(|phase| *phase == Phase::Running)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let error = mesh.sync.borrow().error.clone();
                let message = format!("the store could not be used within {}s", USABLE.as_secs());
                Err(Failure::new(ErrorCode::StoreUnavailable, message).with(error.into_iter().collect()))
            }
        }
    }

    /// Makes the record and keys of a new network.
    async fn found(&self, name: &NetworkName) -> Result<NetworkFile> {
        if self.shared.disk.network(name)?.is_some() {
            return Err(Failure::new(ErrorCode::NetworkAlreadyExists, format!("network {name} exists")));
        }
        let plan = self.shared.around.config.plan;
        self.no_conflict(plan.cluster_cidr).await?;
        let id = NetworkId::from_bytes(random::bytes());
        let keys = random::keys(None);
        let subnet =
            plan.slice(0).ok_or_else(|| Failure::new(ErrorCode::SubnetExhausted, "no subnet fits"))?;
        let mut machine = membership(hostname(), &keys, OverlayPrefix::of(&id), subnet)?;
        machine.storage = StorageParticipation::Authority;
        machine.region_role = RegionRole::HomeData;
        machine.topology = self.topology();
        machine.endpoints = self.endpoints(&id, plan.cluster_cidr).await?;
        let network = NetworkFile {
            version: 1,
            id,
            name: name.clone(),
            plan,
            lifecycle: Stored::Stopped,
            founder: Founder { id: machine.id.clone(), overlay_ip: machine.overlay_ip },
            machine: machine.clone(),
            backend: None,
        };
        self.shared.disk.put_keys(name, &keys)?;
        self.shared
            .disk
            .put_peers_of_new(name, &PeersFile { machines: vec![machine], ..Default::default() })?;
        self.shared.disk.put_network(&network)?;
        Ok(network)
    }

    async fn acceptable(&self, token: &Token) -> Result<()> {
        if clock::now() >= token.expires_at {
            return Err(Failure::new(ErrorCode::TokenExpired, "the token has expired"));
        }
        let config = &self.shared.around.config;
        let chosen = |key| config.origin(key).is_some_and(|origin| *origin != Origin::Default);
        if (chosen("cluster_cidr") || chosen("subnet_prefix_len")) && config.plan != token.plan {
            let message =
                format!("the token is for {}, this machine is configured for {}", token.plan, config.plan);
            return Err(Failure::new(ErrorCode::CidrMismatch, message));
        }
        if let Some(known) = self.shared.disk.network(&token.network_name)? {
            let resumed =
                matches!(&known.lifecycle, Stored::Joining { invite, .. } if *invite == token.invite_id);
            if !resumed {
                let message = format!("network {} exists on this machine", token.network_name);
                return Err(Failure::new(ErrorCode::NetworkAlreadyExists, message));
            }
        }
        self.no_conflict(token.plan.cluster_cidr).await
    }

    /// The cluster's range must not hide an address that the machine already has.
    async fn no_conflict(&self, cidr: ipnet::Ipv4Net) -> Result<()> {
        let seen = underlay::observe().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's addresses", &error)
        })?;
        let ours = ["ployz0", "ployz-veth"];
        let clash = seen.iter().find(|seen| {
            !ours.contains(&seen.interface.as_str())
                && matches!(seen.address, IpAddr::V4(ip) if cidr.contains(&ip))
        });
        let conflict = |what: String| Err(Failure::new(ErrorCode::AddressConflict, what));
        if let Some(seen) = clash {
            return conflict(format!("cluster_cidr {cidr} contains {} of {}", seen.address, seen.interface));
        }
        let routes = underlay::routes().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's routes", &error)
        })?;
        // A wider network that holds the range (a data centre's 10.0.0.0/8) goes on as before; one inside it would not.
        match routes.iter().find(|to| matches!(to, ipnet::IpNet::V4(to) if cidr.contains(to))) {
            Some(to) => {
                conflict(format!("cluster_cidr {cidr} contains {to}, to which this machine has a route"))
            }
            None => Ok(()),
        }
    }

    async fn endpoints(
        &self,
        network: &NetworkId,
        cidr: ipnet::Ipv4Net,
    ) -> Result<Vec<std::net::SocketAddr>> {
        let seen = underlay::observe().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's addresses", &error)
        })?;
        let prefix = OverlayPrefix::of(network).net();
        let overlay = move |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => cidr.contains(ip),
            IpAddr::V6(ip) => prefix.contains(ip),
        };
        Ok(candidates(&seen, &[], self.shared.around.config.wireguard_listen_port, overlay))
    }

    fn topology(&self) -> Topology {
        let config = &self.shared.around.config;
        Topology { region: config.region.clone(), availability_zone: config.az.clone() }
    }

    fn load(&self, name: &NetworkName) -> Result<(NetworkFile, Keys)> {
        let missing = || {
            Failure::new(ErrorCode::NetworkNotFound, format!("there is no network {name} on this machine"))
        };
        let network = self.shared.disk.network(name)?.ok_or_else(missing)?;
        let keys = self.shared.disk.keys(name)?.ok_or_else(missing)?;
        Ok((network, keys))
    }

    fn nothing_running(&self) -> Result<()> {
        match self.current() {
            None => Ok(()),
            Some(mesh) => {
                let message = format!("network {} is running on this machine", mesh.network().name);
                Err(Failure::new(ErrorCode::NetworkAlreadyRunning, message))
            }
        }
    }
}

/// How many workloads of this machine use the overlay: running containers of ours, or, when Docker does not answer, the
/// ports of the bridge. `None` when that cannot be told.
pub async fn workloads(mesh: &Mesh) -> Option<usize> {
    let spec = mesh.spec();
    if let Some(count) = crate::workload::running(&spec.link.network).await {
        return Some(count);
    }
    match ployz_netns::link::inspect(&spec.link, &ployz_netns::namespace::path(&spec.netns.name)).await {
        Seen::Absent => Some(0),
        Seen::Present(link) => Some(link.bridge.map_or(0, |bridge| bridge.ports)),
        Seen::Foreign(_) | Seen::Unknown(_) => None,
    }
}

/// What is wrong, as soon as that is known: an inspection that timed out is made again before anything is given up.
async fn until_sure(mesh: &Mesh) -> Vec<String> {
    let mut outcome = mesh.outcome.subscribe();
    let known = outcome.wait_for(|outcome| outcome.as_ref().is_some_and(|outcome| !outcome.is_unsure()));
    // Cancel-safe: the watch keeps its value.
    let _ = tokio::time::timeout(SURE, known).await;
    mesh.outcome.borrow().as_ref().map(|outcome| outcome.complaints()).unwrap_or_default()
}

fn is_joining(file: &NetworkFile, token: &Token) -> bool {
    matches!(&file.lifecycle, Stored::Joining { invite, .. } if *invite == token.invite_id)
}

/// The machine's record as its keys give it.
pub fn membership(
    id: MachineId,
    keys: &Keys,
    prefix: OverlayPrefix,
    subnet: NodeSubnet,
) -> Result<MachineMembership> {
    let damaged = || Failure::new(ErrorCode::IoError, "keys.json is damaged");
    let public_key = keys.wireguard.public();
    let now = clock::now();
    Ok(MachineMembership {
        id,
        public_key,
        overlay_ip: prefix.address(&public_key),
        subnet,
        endpoints: Vec::new(),
        nats_key: random::nats_key(keys).ok_or_else(damaged)?,
        verify_key: random::verify_key(keys).ok_or_else(damaged)?,
        lifecycle: Lifecycle::Active,
        storage: StorageParticipation::Candidate,
        region_role: RegionRole::Compute,
        topology: Topology::default(),
        labels: Default::default(),
        created_at: now,
        updated_at: now,
    })
}

/// This machine's name.
pub fn hostname() -> MachineId {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    MachineId::from_hostname(&name)
}

/// Who would run the tunnel of a network that is new here.
pub async fn backend(config: &Config) -> Backend {
    match config.wireguard_backend {
        BackendChoice::Kernel => Backend::Kernel,
        BackendChoice::Userspace => Backend::Userspace,
        BackendChoice::Auto if ployz_netns::wireguard::supported().await => Backend::Kernel,
        BackendChoice::Auto => Backend::Userspace,
    }
}

fn read_token(text: &str) -> Result<Token> {
    Token::verify(text).map_err(|error: BadToken| {
        Failure::because(ErrorCode::InvalidToken, "the token is not valid", &error)
    })
}

/// All peers prepare, then all execute: the founder last, because everybody's commands go through it.
async fn destroy_peers(mesh: &Arc<Mesh>, say: Say<'_>) -> Result<()> {
    let network = mesh.network();
    let mut peers: Vec<MachineMembership> =
        mesh.peers.borrow().machines.iter().filter(|peer| peer.id != network.machine.id).cloned().collect();
    if peers.is_empty() {
        return Ok(());
    }
    peers.sort_by_key(|peer| peer.id == network.founder.id);
    let away = || {
        Failure::new(ErrorCode::StoreUnavailable, "the store is not connected, so the peers cannot be asked")
    };
    let store = mesh.store.borrow().clone().ok_or_else(away)?;
    say("asking every peer");
    let command = Command::PrepareDestroy { network: network.id.clone() };
    let asked =
        peers.iter().map(|peer| async { (peer.id.clone(), remote::ask(&store, &peer.id, &command).await) });
    let refused: Vec<String> = futures_util::future::join_all(asked)
        .await
        .into_iter()
        .filter_map(|(id, answer)| match answer {
            Ok(answer) if answer.ok => None,
            Ok(answer) => Some(format!("{id}: {}", answer.message)),
            Err(error) => Some(format!("{id}: {error}")),
        })
        .collect();
    if !refused.is_empty() {
        let message = "not every peer can take part; nothing was changed";
        return Err(Failure::new(ErrorCode::MeshDestroyPeersUnreachable, message).with(refused));
    }
    say("destroying on every peer");
    let command = Command::ExecuteDestroy { network: network.id.clone() };
    let mut failed = Vec::new();
    for peer in &peers {
        match remote::ask(&store, &peer.id, &command).await {
            Ok(answer) if answer.ok => {}
            Ok(answer) => failed.push(format!("{}: {}", peer.id, answer.message)),
            Err(error) => failed.push(format!("{}: {error}", peer.id)),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::MeshDestroyPeerExecuteFailed, "some peers did not confirm").with(failed))
}

/// Takes this machine out of everybody's routes when the rest of the network goes on; best effort, because it is left
/// even when nobody can be told.
async fn withdraw(mesh: &Mesh) {
    let (store, network) = (mesh.store.borrow().clone(), mesh.network());
    let Some(store) = store else { return };
    let work = async {
        crate::deploy::announce::withdraw(mesh, &store).await?;
        crate::mesh::routes::withdraw(&store, &network).await
    };
    match tokio::time::timeout(WITHDRAW, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("its route stays: {}", ployz_netns::chain(&error)),
        Err(_) => tracing::warn!("its route stays: no answer within {}s", WITHDRAW.as_secs()),
    }
}

const WITHDRAW: Duration = Duration::from_secs(2);
/// How long a start waits for parts that could not be inspected.
const SURE: Duration = Duration::from_secs(20);
const USABLE: Duration = Duration::from_secs(30);
/// A week.
const MAX_TTL: u64 = 7 * 24 * 3600;
