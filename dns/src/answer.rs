//! What is answered to a query: a whole reply from the zone, a refusal, or "ask the forwarder".
//!
//! Decides and writes, waits for nothing. hickory reads the query and writes our own records; its `Server` is not used,
//! because on shutdown it drops what it has read (`handle_udp` leaves its loop with replies still queued), starts a task
//! without bound for every query, and cannot pass on another server's reply as it is.

use crate::realm::{Realm, Whose};
use crate::wire::{self, flag, rcode};
use crate::zone::{self, MACHINE, Node, Zone};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{LowerQuery, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;
use ployz_core::id::MachineId;
use ployz_core::routing::Freshness;
use ployz_core::wire::v1::sidecar::SidecarStatus;
use ployz_nats::events::Snapshot;
use std::iter::empty;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers for the zone of one network.
pub struct Answerer {
    realm: Realm,
    status: LowerName,
    machine: Name,
    contact: Name,
    turn: AtomicUsize,
}

/// What becomes of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Not even an error is sent: it is a reply itself, or no message.
    Silence,
    /// This is sent.
    Now(Vec<u8>),
    /// The forwarder is asked.
    Forward(Ask),
}

/// A question for somebody else, and how its asker wants the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Id of the query.
    pub id: u16,
    /// Flags of the query.
    pub flags: u16,
    /// Name as it was written, type and class.
    pub question: Vec<u8>,
    /// `Some`: the asker knows EDNS; whether it wants signatures.
    pub edns: Option<bool>,
    /// Most bytes a reply may have.
    pub limit: usize,
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// In a connection.
    Tcp,
}

/// Records of a reply.
#[derive(Default)]
struct Sections {
    code: u16,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Answerer {
    /// For this machine's server.
    pub fn new(realm: Realm, machine: &MachineId) -> Self {
        let own = |labels: &[&str]| zone::name(labels).expect("names of the mesh are short enough");
        Self {
            realm,
            status: LowerName::new(&own(&["_status"])),
            machine: own(&[machine.as_str(), MACHINE]),
            contact: own(&["hostmaster"]),
            turn: AtomicUsize::new(0),
        }
    }

    /// What to do with the bytes of one message.
    pub fn reply(&self, packet: &[u8], from: SocketAddr, transport: Transport, at: &Snapshot<Zone>) -> Reply {
        let (Ok(id), Ok(flags), Ok(questions)) =
            (wire::word(packet, 0), wire::word(packet, 2), wire::word(packet, 4))
        else {
            return Reply::Silence;
        };
        // Answering a response would let two servers talk to each other for ever.
        if packet.len() < wire::HEADER || flags & flag::QR != 0 {
            return Reply::Silence;
        }
        if flags & OPCODE != 0 {
            return Reply::Now(bare(id, flags, rcode::NOTIMP));
        }
        let question = if questions == 1 { wire::question_end(packet).ok() } else { None };
        // hickory tells queries that came over TCP apart only in what it writes, which it does not do here.
        let read = Request::from_bytes(packet.to_vec(), from, Protocol::Udp);
        let (Some(end), Ok(request)) = (question, read) else {
            return Reply::Now(bare(id, flags, rcode::FORMERR));
        };
        let ask = Ask {
            id,
            flags,
            question: packet[wire::HEADER..end].to_vec(),
            edns: request.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
            limit: match transport {
                Transport::Tcp => usize::from(u16::MAX),
                Transport::Udp if request.edns.is_none() => wire::UDP_PLAIN,
                Transport::Udp => usize::from(request.max_payload().min(wire::UDP_PAYLOAD)),
            },
        };
        if request.version() > 0 {
            return Reply::Now(bad_version(&request, &ask));
        }
        let [query] = request.queries.queries() else {
            return Reply::Now(bare(id, flags, rcode::FORMERR));
        };
        match self.sections(query, from, at, &ask) {
            Some(sections) => Reply::Now(sections.write(&request, &ask)),
            None => Reply::Forward(ask),
        }
    }

    /// The records for one question; `None`: it is somebody else's.
    fn sections(
        &self,
        query: &LowerQuery,
        from: SocketAddr,
        at: &Snapshot<Zone>,
        ask: &Ask,
    ) -> Option<Sections> {
        let kind = u16::from(query.query_type());
        if kind == OPT {
            return Some(Sections::code(rcode::FORMERR));
        }
        // Transfers and transactions (RFC 6895: 249 to 254), and classes that nobody uses, version.bind among them.
        if query.query_class() != DNSClass::IN || (249..=254).contains(&kind) {
            return Some(Sections::code(rcode::REFUSED));
        }
        let whose = self.realm.of(query.name());
        if whose == Whose::Elsewhere {
            let refused = ask.flags & flag::RD == 0;
            return refused.then(|| Sections::code(rcode::REFUSED));
        }
        if *query.name() == self.status {
            return Some(self.status(query, at));
        }
        if at.freshness == Freshness::Empty {
            return Some(Sections::code(rcode::SERVFAIL));
        }
        Some(self.ours(query, whose, from, at))
    }

    fn ours(&self, query: &LowerQuery, whose: Whose, from: SocketAddr, at: &Snapshot<Zone>) -> Sections {
        let name = query.name();
        let (apex, node) = match whose {
            Whose::Reverse(apex) => (apex, at.view.find(name)),
            Whose::Bare => (Name::root(), short(name, from, &at.view)),
            _ => {
                let below = name.num_labels() == zone::ZONE.len() as u8 + 1;
                let shorter = if below { short(name, from, &at.view) } else { None };
                (Name::from(self.realm.zone()), shorter.or_else(|| at.view.find(name)))
            }
        };
        let soa = self.soa(&apex, at.sequence);
        let top = *name == LowerName::new(&apex);
        let mut out = Sections { authoritative: true, ..Sections::default() };
        match node {
            None if !top => out.code = rcode::NXDOMAIN,
            _ if top && query.query_type() == RecordType::SOA => out.answers.push(soa.clone()),
            _ if top && query.query_type() == RecordType::NS => {
                out.answers.push(self.record(query, RData::NS(NS(self.machine.clone()))));
            }
            Some(node) => self.records(query, node, &mut out),
            None => {}
        }
        if out.answers.is_empty() {
            out.authority.push(soa);
        }
        out
    }

    fn records(&self, query: &LowerQuery, node: &Node, out: &mut Sections) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut answer = |data: RData| out.answers.push(self.record(query, data));
        match query.query_type() {
            RecordType::A => rotated(&node.a, turn).for_each(|a| answer(RData::A(A(*a)))),
            RecordType::AAAA => node.aaaa.iter().for_each(|a| answer(RData::AAAA(AAAA(*a)))),
            RecordType::PTR => node.ptr.iter().for_each(|name| answer(RData::PTR(PTR(name.name())))),
            RecordType::SRV => {
                for target in rotated(&node.srv, turn) {
                    // Equal priority and weight: no preference among equals (RFC 2782).
                    answer(RData::SRV(SRV::new(0, 10, target.port, target.name.name())));
                }
                let glue = rotated(&node.srv, turn)
                    .map(|target| Record::from_rdata(target.name.name(), TTL, RData::A(A(target.address))));
                out.additional.extend(glue);
            }
            // RFC 8482: who asks for everything is told that nobody tells everything.
            RecordType::ANY => answer(RData::HINFO(HINFO::new("RFC8482".into(), String::new()))),
            _ => {}
        }
    }

    /// Freshness for whoever has only `dig`; answered also when nothing else can be.
    fn status(&self, query: &LowerQuery, at: &Snapshot<Zone>) -> Sections {
        let mut out = Sections { authoritative: true, ..Sections::default() };
        if matches!(query.query_type(), RecordType::TXT | RecordType::ANY) {
            let mut record = self.record(query, RData::TXT(TXT::new(status(at).parts())));
            record.ttl = 0;
            out.answers.push(record);
        } else {
            out.authority.push(self.soa(&Name::from(self.realm.zone()), at.sequence));
        }
        out
    }

    fn record(&self, query: &LowerQuery, data: RData) -> Record {
        Record::from_rdata(query.original().name().clone(), TTL, data)
    }

    /// The serial is the stream's sequence: it grows with every change, and wraps as serials may (RFC 1982).
    fn soa(&self, apex: &Name, sequence: u64) -> Record {
        let soa = SOA::new(
            self.machine.clone(),
            self.contact.clone(),
            (sequence & u64::from(u32::MAX)) as u32,
            60,
            60,
            3600,
            TTL,
        );
        Record::from_rdata(apex.clone(), TTL, RData::SOA(soa))
    }
}

impl Sections {
    fn code(code: u16) -> Self {
        Self { code, ..Self::default() }
    }

    fn write(&self, request: &Request, ask: &Ask) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.authoritative = self.authoritative;
        metadata.response_code = ResponseCode::from(0, self.code as u8);
        let mut out = Vec::with_capacity(wire::UDP_PLAIN);
        let mut encoder = BinEncoder::new(&mut out);
        // hickory leaves no room for OPT when it truncates, so it is added afterwards.
        let room = ask.limit - if ask.edns.is_some() { OPT_LENGTH } else { 0 };
        encoder.set_max_size(u16::try_from(room).unwrap_or(u16::MAX));
        let response = MessageResponseBuilder::new(&request.queries, None).build(
            metadata,
            self.answers.iter(),
            self.authority.iter(),
            empty(),
            self.additional.iter(),
        );
        if let Err(error) = response.destructive_emit(&mut encoder) {
            tracing::error!(%error, "cannot write a reply");
            return bare(ask.id, ask.flags, rcode::SERVFAIL);
        }
        // A record that did not fit is still in the buffer, behind the end.
        let end = encoder.offset();
        out.truncate(end);
        if let Some(dnssec_ok) = ask.edns {
            wire::append_opt(&mut out, dnssec_ok);
        }
        out
    }
}

/// An error without a question: what cannot be read cannot be repeated.
pub fn bare(id: u16, flags: u16, code: u16) -> Vec<u8> {
    wire::header(id, flag::QR | (flags & (OPCODE | flag::RD)) | code)
}

/// RFC 6891 section 6.1.3. The upper bits of the code are the first octet of the OPT record's TTL.
fn bad_version(request: &Request, ask: &Ask) -> Vec<u8> {
    let mut out = Sections::default().write(request, ask);
    let upper = out.len() - OPT_LENGTH + 5;
    out[upper] = 1;
    out
}

/// What the server reports of a snapshot.
fn status(at: &Snapshot<Zone>) -> SidecarStatus {
    let mut status = SidecarStatus::new(at.freshness, env!("CARGO_PKG_VERSION"));
    status.sequence = Some(at.sequence);
    status.counts.machines = Some(at.view.counts.machines as u64);
    status.counts.services = Some(at.view.counts.services as u64);
    status.counts.instances = Some(at.view.counts.instances as u64);
    status
}

fn short<'z>(name: &LowerName, from: SocketAddr, zone: &'z Zone) -> Option<&'z Node> {
    zone.find_short(name.iter().next()?, from.ip())
}

/// All of them, beginning with another one each turn: clients take the first.
fn rotated<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (before, after) = all.split_at(if all.is_empty() { 0 } else { turn % all.len() });
    after.iter().chain(before)
}

/// Seconds. An instance that is taken out still serves while it drains, which is longer than this; a client that keeps
/// what it has learned does not ask for every connection. Also for how long "there is none" holds.
pub const TTL: u32 = 5;

const OPCODE: u16 = 0x7800;
const OPT: u16 = 41;
const OPT_LENGTH: usize = 11;
