//! What a seed decides before anything runs: hosts, links, the applications' work and the faults, as lists, so that a
//! failing seed can be made smaller by leaving items out. Times are milliseconds of true time since the world began.

use waypost_core::id::Class;
use waypost_core::limits;

use crate::rng::Rng;

/// How large a world is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// Two to six hosts, minutes to hours: at most 0.1 CPU-seconds.
    Short,
    /// Up to 50 hosts, hours to days: at most 3 CPU-seconds.
    Long,
    /// Nine hosts, one message each per 10 s, one fault a host and minute: what the speed is measured on.
    Steady,
}

impl Length {
    /// How long a steady world runs, in milliseconds.
    pub const STEADY_MS: u64 = 1_000_000;

    /// After so many events things stop going wrong; the median world has fewer.
    fn most_steps(self) -> u64 {
        match self {
            Self::Short => 4_000,
            Self::Long => 250_000,
            Self::Steady => u64::MAX,
        }
    }
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Starts for the first time then.
    pub born_ms: u64,
    /// Its wall clock minus true time, at the beginning.
    pub wall_offset_ms: i64,
    /// Its boot clock runs so much fast, parts per million.
    pub drift_ppm: i64,
    /// A synced commit takes so long.
    pub commit_us: (u64, u64),
    /// Outbox, inbox and transit quotas in bytes; outbox in messages.
    pub quotas: Quotas,
    /// The first wave comes after so long without a receipt.
    pub wave_ms: u64,
    /// How it lies, when it does.
    pub malice: Option<Malice>,
}

impl HostPlan {
    /// Whether transit holds whatever comes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.quotas.transit_bytes == ROOMY.transit_bytes
    }
}

/// Room on a host.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Messages accepted and not ended.
    pub outbox_messages: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Bytes delivered and not consumed.
    pub inbox_bytes: u64,
    /// Bytes of others.
    pub transit_bytes: u64,
    /// Envelopes a neighbour may send unanswered.
    pub credit_envelopes: u64,
}

/// How a hostile member lies. It is a real engine with a real key whose frames pass through `hostile`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malice {
    /// Acknowledges mail of others and drops it.
    BlackHole,
    /// Sends again what it saw, to anybody.
    Replays,
    /// Signs receipts and words that are not its own, and custody for what it was not sent.
    Forges,
    /// Tells of links it has not.
    LiesAboutRoutes,
    /// Sends as much as it can to as many as it can.
    Floods,
    /// Sends frames with bytes changed.
    Garbles,
}

/// Every way to lie.
pub const MALICE: [Malice; 6] =
    [Malice::BlackHole, Malice::Replays, Malice::Forges, Malice::LiesAboutRoutes, Malice::Floods, Malice::Garbles];

/// A link two hosts can have.
#[derive(Clone, Debug)]
pub struct LinkPlan {
    /// One end.
    pub a: usize,
    /// The other.
    pub b: usize,
    /// One way.
    pub latency_us: (u64, u64),
    /// Bytes a millisecond; how fast it carries.
    pub bytes_per_ms: u64,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants say it; the fields are host or link numbers and milliseconds")]
pub enum Fault {
    /// The process is killed between two rounds; its supervisor starts it again.
    Kill { host: usize, down_ms: u64 },
    /// It is killed while its next commit is being written: the record is whole on disk, or torn.
    KillInCommit { host: usize, down_ms: u64, torn: bool },
    /// It is killed, and killed again in the middle of its recovery, `times` times.
    KillInRecovery { host: usize, times: u64 },
    /// The host loses power in the middle of a commit if one runs, and boots again: another boot, a wall clock that may be off.
    PowerCut { host: usize, down_ms: u64, torn: bool },
    /// The process stands still.
    Freeze { host: usize, ms: u64 },
    /// The next commit fails; whether its record reached the disk is open.
    DiskError { host: usize, written: bool },
    /// Space runs low and is noticed in time, or is gone and every commit fails, until it returns.
    DiskFull { host: usize, ms: u64, noticed: bool },
    /// Every commit takes this long.
    DiskSlow { host: usize, ms: u64, commit_ms: u64 },
    /// A bit flips in a body row; reading it fails its checksum.
    RotBody { host: usize },
    /// A record of the log below the last sync is damaged: the last commits are gone at the next start.
    RotLog { host: usize, commits: u64 },
    /// The disk as it is now is copied away.
    Snapshot { host: usize },
    /// The last copy is put back.
    Restore { host: usize, down_ms: u64 },
    /// The data directory is gone; the key is kept elsewhere.
    Wipe { host: usize, down_ms: u64 },
    /// A copy of the running host, disk and key, is started beside it and reached over its links.
    Clone { host: usize, ms: u64 },
    /// The memory and disk of now come back later, as a machine resumed from a snapshot.
    Resume { host: usize, after_ms: u64 },
    /// The wall clock jumps.
    ClockJump { host: usize, ms: i64 },
    /// A link is cut; what is on it waits or is lost.
    Cut { link: usize, ms: u64 },
    /// Frames of one direction vanish.
    OneWay { link: usize, ms: u64, from_a: bool },
    /// The connection is gone and one side does not notice for a while.
    HalfOpen { link: usize, unnoticed_ms: u64 },
    /// Up and down, many times.
    Flap { link: usize, times: u64, period_ms: u64 },
    /// The hosts of the mask see only each other.
    Partition { side: u64, ms: u64 },
    /// Links stop one after the other and come back in another order.
    Swizzle { period_ms: u64, order: u64 },
    /// The link carries this little.
    SlowLink { link: usize, ms: u64, bytes_per_ms: u64 },
    /// Frames are lost, doubled and late, per mille, as on no stream but on a hostile one.
    Lossy { link: usize, ms: u64, per_mille: u64 },
    /// What is sent in this time comes after it.
    Delay { link: usize, ms: u64 },
    /// The host goes and never comes back.
    Leave { host: usize },
}

impl Fault {
    /// A link leaves the plan: those after it move down. `false`: the fault was about this link.
    pub fn forget_link(&mut self, gone: usize) -> bool {
        let link = match self {
            Self::Cut { link, .. }
            | Self::OneWay { link, .. }
            | Self::HalfOpen { link, .. }
            | Self::Flap { link, .. }
            | Self::SlowLink { link, .. }
            | Self::Lossy { link, .. }
            | Self::Delay { link, .. } => link,
            _ => return true,
        };
        if *link > gone {
            *link -= 1;
            return true;
        }
        *link != gone
    }
}

/// Something an application does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of a submission")]
pub struct Send {
    pub from: usize,
    pub to: usize,
    /// So many in one call.
    pub count: usize,
    pub size: usize,
    pub class: Class,
    pub lifetime_ms: u64,
    /// With an idempotency key: tried again until accepted.
    pub keyed: bool,
    pub ordered: bool,
    pub delay_ms: u64,
    /// Asked to be cancelled after so long.
    pub cancel_after_ms: Option<u64>,
}

/// How the receiving applications behave.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Credit a consumer grants.
    pub credit: u32,
    /// From receipt to acknowledgement.
    pub think_ms: (u64, u64),
    /// Of 1,000 deliveries so many are met by a crash of the application.
    pub crash_per_mille: u64,
    /// So many are nacked.
    pub nack_per_mille: u64,
    /// So many are refused for good.
    pub refuse_per_mille: u64,
    /// After so many deliveries a message is dead-lettered; 0: never.
    pub max_deliveries: u32,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A lost connection is dialled again after so long.
    pub redial_ms: (u64, u64),
    /// The seed.
    pub seed: u64,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// The links.
    pub links: Vec<LinkPlan>,
    /// Faults with their times.
    pub faults: Vec<(u64, Fault)>,
    /// Work with its times.
    pub work: Vec<(u64, Send)>,
    /// Of all receivers.
    pub manners: Manners,
    /// From here on nothing goes wrong any more.
    pub faults_end_ms: u64,
    /// Nor after so many events: what floods and flaps for days shows nothing in its second million of frames.
    pub most_steps: u64,
}

impl Plan {
    /// What is in it, in a line.
    #[must_use]
    pub fn outline(&self) -> String {
        let (hosts, links, faults) = (self.hosts.len(), self.links.len(), self.faults.len());
        let liars = self.hosts.iter().filter(|host| host.malice.is_some()).count();
        let minutes = self.faults_end_ms / 60_000;
        format!(
            "{hosts} hosts, {liars} of them liars, {links} links, {faults} faults in {minutes} min, {} calls",
            self.work.len()
        )
    }

    /// What a seed decides.
    #[must_use]
    pub fn draw(seed: u64, length: Length) -> Self {
        Draft { rng: Rng::of(seed, "plan", 0), length, liars: 70 }.plan(seed)
    }

    /// A short plan in which every second host lies, but for the first two, for as many events as that takes. No body rots
    /// in it: what a liar did would hide behind that.
    #[must_use]
    pub fn with_liars(seed: u64) -> Self {
        let mut plan = Draft { rng: Rng::of(seed, "plan", 0), length: Length::Short, liars: 500 }.plan(seed);
        plan.faults.retain(|(_, fault)| !matches!(fault, Fault::RotBody { .. }));
        plan.most_steps = u64::MAX;
        plan
    }

    /// Whether a host stays until the end.
    #[must_use]
    pub fn stays(&self, host: usize) -> bool {
        !self.faults.iter().any(|(_, fault)| *fault == Fault::Leave { host })
    }
}

struct Draft {
    rng: Rng,
    length: Length,
    /// Hosts that lie, per mille.
    liars: u64,
}

impl Draft {
    fn plan(mut self, seed: u64) -> Plan {
        let count = match self.length {
            Length::Short => self.rng.range(2, 6) as usize,
            Length::Long => self.rng.spread(5, 50) as usize,
            Length::Steady => 9,
        };
        let faults_end_ms = match self.length {
            Length::Short => self.rng.spread(30_000, 2 * 3_600_000),
            // Fifty hosts for an hour are as many steps as five for three days.
            Length::Long => {
                self.rng.spread(1_800_000, (3 * limits::DAY_MS * 25 / (count * count) as u64).max(2_000_000))
            }
            Length::Steady => Length::STEADY_MS,
        };
        if self.length == Length::Long {
            // What a liar begins, everybody carries on: in one of four worlds there is one.
            self.liars = 4 * self.liars / count as u64;
        }
        let mut hosts = (0..count).map(|host| self.host(host, faults_end_ms)).collect::<Vec<_>>();
        if self.length != Length::Steady && self.rng.chance(120) {
            // Nobody has room for others: standby copies are given up, and offered again.
            hosts.iter_mut().for_each(|host| host.quotas.transit_bytes = self.rng.spread(1_000, 8_000));
        }
        let liars: Vec<usize> = (0..count).filter(|host| hosts[*host].malice.is_some()).collect();
        let links = self.links(count, &liars);
        let mut work = self.work(&hosts, faults_end_ms);
        let faults = self.faults(&liars, count, &links, faults_end_ms);
        self.send_twice(&hosts, &faults, &mut work);
        let manners = self.manners();
        // Short worlds have no time to lose; long ones dial as the node does.
        let redial_ms = if self.length == Length::Short { (20, 2000) } else { (1000, 2000) };
        Plan {
            seed,
            redial_ms,
            hosts,
            links,
            faults,
            work,
            manners,
            faults_end_ms,
            most_steps: self.length.most_steps(),
        }
    }

    fn host(&mut self, host: usize, end_ms: u64) -> HostPlan {
        let liars = self.liars;
        let rng = &mut self.rng;
        if self.length == Length::Steady {
            return HostPlan {
                born_ms: 0,
                wall_offset_ms: 0,
                drift_ppm: 0,
                commit_us: (300, 3000),
                quotas: ROOMY,
                wave_ms: 60_000,
                malice: None,
            };
        }
        let late = host > 0 && rng.chance(60);
        let slow = rng.chance(150);
        HostPlan {
            born_ms: if late { rng.below(end_ms / 2) } else { 0 },
            wall_offset_ms: if rng.chance(200) { years(rng) } else { rng.below(2000) as i64 - 1000 },
            drift_ppm: rng.below(401) as i64 - 200,
            commit_us: if slow { (10_000, 400_000) } else { (200, 8000) },
            quotas: Self::quotas(rng),
            wave_ms: *rng.pick(&[5_000, 20_000, 60_000, 60_000]),
            malice: (host > 1 && rng.chance(liars)).then(|| *rng.pick(&MALICE)),
        }
    }

    fn quotas(rng: &mut Rng) -> Quotas {
        Quotas {
            outbox_messages: if rng.chance(100) { rng.range(12, 24) } else { ROOMY.outbox_messages },
            outbox_bytes: if rng.chance(60) { rng.spread(1_000_000, 3_000_000) } else { ROOMY.outbox_bytes },
            inbox_bytes: if rng.chance(250) { rng.spread(1_000, 30_000) } else { ROOMY.inbox_bytes },
            transit_bytes: if rng.chance(300) { rng.spread(1_500, 60_000) } else { ROOMY.transit_bytes },
            credit_envelopes: if rng.chance(200) { rng.range(1, 8) } else { ROOMY.credit_envelopes },
        }
    }

    /// A tree that connects all, and some links more; the honest reach each other without the liars, or nothing would
    /// be promised.
    fn links(&mut self, count: usize, liars: &[usize]) -> Vec<LinkPlan> {
        let mut links = Vec::new();
        let chain = self.rng.chance(400);
        for b in 1..count {
            let a = if chain { b - 1 } else { self.rng.index(b) };
            links.push(self.link(a, b));
        }
        let more = self.rng.below(count as u64 + 1) as usize;
        for _ in 0..more {
            let (a, b) = (self.rng.index(count), self.rng.index(count));
            let (a, b) = (a.min(b), a.max(b));
            if a != b && !links.iter().any(|link| (link.a, link.b) == (a, b)) {
                links.push(self.link(a, b));
            }
        }
        let honest: Vec<usize> = (0..count).filter(|host| !liars.contains(host)).collect();
        for pair in honest.windows(2) {
            let known = links.iter().any(|link| (link.a, link.b) == (pair[0], pair[1]));
            if !known && !joins_all(count, &links, liars) {
                links.push(self.link(pair[0], pair[1]));
            }
        }
        links
    }

    fn link(&mut self, a: usize, b: usize) -> LinkPlan {
        let latency_us = self.rng.spread(100, 300_000);
        LinkPlan { a, b, latency_us: (latency_us, latency_us * 3 / 2), bytes_per_ms: self.rng.spread(200, 100_000) }
    }

    fn work(&mut self, hosts: &[HostPlan], end_ms: u64) -> Vec<(u64, Send)> {
        let honest: Vec<usize> = (0..hosts.len()).filter(|host| hosts[*host].malice.is_none()).collect();
        if self.length == Length::Steady {
            let times = (0..end_ms / 10_000).flat_map(|turn| (0..hosts.len()).map(move |host| (turn * 10_000, host)));
            return times.map(|(at, from)| (at + from as u64 * 1000, self.message(from, &honest, end_ms))).collect();
        }
        let sends = if self.length == Length::Short { self.rng.range(14, 30) } else { self.rng.range(60, 250) };
        let mut work: Vec<(u64, Send)> = (0..sends)
            .map(|_| {
                let from = *self.rng.pick(&honest);
                let send = self.message(from, &honest, end_ms);
                (self.rng.below(end_ms), send)
            })
            .collect();
        work.sort_by_key(|(at, _)| *at);
        work
    }

    /// A machine that is resumed gives numbers out a second time: to somebody whom it had sent more since the snapshot.
    fn send_twice(&mut self, hosts: &[HostPlan], faults: &[(u64, Fault)], work: &mut Vec<(u64, Send)>) {
        let honest: Vec<usize> = (0..hosts.len()).filter(|host| hosts[*host].malice.is_none()).collect();
        for (at, fault) in faults {
            if let Fault::Resume { host, after_ms } = fault
                && self.length != Length::Steady
            {
                let drawn = self.message(*host, &honest, (*at).max(1000));
                let lifetime_ms = limits::LIFETIME_MS;
                let plain = Send { count: 1, size: 300, lifetime_ms, delay_ms: 0, cancel_after_ms: None, ..drawn };
                let plain = Send { ordered: false, ..plain };
                work.push((at + after_ms / 2, plain.clone()));
                work.push((at + after_ms + 50, plain));
            }
        }
        work.sort_by_key(|(at, _)| *at);
    }

    fn message(&mut self, from: usize, honest: &[usize], end_ms: u64) -> Send {
        let rng = &mut self.rng;
        let to = *rng.pick(honest);
        if self.length == Length::Steady {
            let (class, lifetime_ms) = (Class::Normal, limits::LIFETIME_MS);
            return Send {
                from,
                to,
                count: 1,
                size: 300,
                class,
                lifetime_ms,
                keyed: true,
                ordered: false,
                delay_ms: 0,
                cancel_after_ms: None,
            };
        }
        let large = rng.chance(25);
        Send {
            from,
            to,
            count: if !large && rng.chance(150) { rng.range(2, 12) as usize } else { 1 },
            size: if large { rng.range(262_145, 700_000) } else { rng.spread(1, 4000) - 1 } as usize,
            class: *rng.pick(&[Class::Urgent, Class::Normal, Class::Normal, Class::Bulk]),
            lifetime_ms: if rng.chance(180) { rng.spread(1000, end_ms) } else { limits::LIFETIME_MS },
            keyed: rng.chance(800),
            ordered: rng.chance(200),
            delay_ms: if rng.chance(80) { rng.spread(1000, end_ms) } else { 0 },
            cancel_after_ms: rng.chance(80).then(|| rng.spread(1, 60_000)),
        }
    }

    fn manners(&mut self) -> Manners {
        let rng = &mut self.rng;
        if self.length == Length::Steady {
            let think_ms = (1, 20);
            return Manners {
                credit: 64,
                think_ms,
                crash_per_mille: 0,
                nack_per_mille: 0,
                refuse_per_mille: 0,
                max_deliveries: 0,
            };
        }
        Manners {
            credit: rng.range(1, 32) as u32,
            think_ms: (0, rng.spread(1, 30_000)),
            crash_per_mille: if rng.chance(300) { rng.range(10, 150) } else { 0 },
            nack_per_mille: if rng.chance(300) { rng.range(10, 150) } else { 0 },
            refuse_per_mille: if rng.chance(200) { rng.range(10, 100) } else { 0 },
            max_deliveries: if rng.chance(150) { rng.range(1, 4) as u32 } else { 0 },
        }
    }

    fn faults(&mut self, liars: &[usize], hosts: usize, links: &[LinkPlan], end_ms: u64) -> Vec<(u64, Fault)> {
        let count = match self.length {
            Length::Short => self.rng.range(6, 16),
            Length::Long => self.rng.range(30, 200),
            Length::Steady => 9 * end_ms / 60_000,
        };
        // Each seed has its own favourites: one that has every fault at a low rate never has the same one twice in a row.
        let mut weights: Vec<u64> =
            (0..KINDS).map(|_| if self.rng.chance(500) { self.rng.below(10) } else { 0 }).collect();
        weights[0] += 6;
        weights[1] += 4;
        let mut faults = Vec::new();
        for _ in 0..count {
            let at = self.rng.below(end_ms);
            let kind = self.weighed(&weights);
            self.fault(kind, at, (hosts, links.len(), end_ms), &mut faults);
        }
        // One may go for good, and only if the others still reach each other: without a path nothing is promised.
        let mut left = 0;
        faults.retain(|(_, fault)| match fault {
            Fault::Leave { host } => {
                let rest = joins_all(hosts, links, &[liars, &[*host]].concat());
                left += usize::from(rest);
                left == 1 && rest
            }
            _ => true,
        });
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    fn weighed(&mut self, weights: &[u64]) -> usize {
        let mut at = self.rng.below(weights.iter().sum());
        for (kind, weight) in weights.iter().enumerate() {
            if at < *weight {
                return kind;
            }
            at -= weight;
        }
        0
    }

    fn fault(&mut self, kind: usize, at: u64, (hosts, links, end_ms): (usize, usize, u64), to: &mut Vec<(u64, Fault)>) {
        let steady = self.length == Length::Steady;
        let rng = &mut self.rng;
        let (host, link) = (rng.index(hosts), rng.index(links));
        let down_ms = rng.spread(50, if steady { 20_000 } else { end_ms / 4 + 1000 });
        let ms = rng.spread(500, if steady { 20_000 } else { end_ms / 3 + 1000 });
        let torn = rng.chance(500);
        // Disks that lose what they synced, and twins, are rare: the promise is weaker there, and so is what is checked.
        let rare = !steady && rng.chance(250);
        let fault = match kind {
            0 => Fault::Kill { host, down_ms },
            1 => Fault::KillInCommit { host, down_ms, torn },
            2 => Fault::KillInRecovery { host, times: rng.range(1, 3) },
            3 => Fault::PowerCut { host, down_ms, torn },
            4 => Fault::Freeze { host, ms: ms.min(600_000) },
            5 => Fault::DiskError { host, written: torn },
            6 => Fault::DiskFull { host, ms, noticed: torn },
            7 => Fault::DiskSlow { host, ms: ms.min(600_000), commit_ms: rng.spread(50, 20_000) },
            8 if rare => Fault::RotBody { host },
            9 if rare => Fault::RotLog { host, commits: rng.spread(1, 200) },
            10 if rare => {
                to.push((at, Fault::Snapshot { host }));
                to.push((at.saturating_add(ms).min(end_ms), Fault::Restore { host, down_ms }));
                return;
            }
            11 if rare => Fault::Wipe { host, down_ms },
            12 if rare => Fault::Clone { host, ms },
            13 if rare => Fault::Resume { host, after_ms: ms.min(600_000) },
            14 => Fault::ClockJump { host, ms: years(rng) },
            15 | 8 => Fault::Cut { link, ms },
            16 | 9 => Fault::OneWay { link, ms, from_a: torn },
            17 | 10 => Fault::HalfOpen { link, unnoticed_ms: rng.spread(1000, 120_000) },
            18 | 11 => Fault::Flap { link, times: rng.range(2, 8), period_ms: rng.spread(200, 20_000) },
            19 => Fault::Partition { side: rng.bits(), ms },
            20 | 12 => Fault::Swizzle { period_ms: rng.spread(100, 10_000), order: rng.bits() },
            21 => Fault::SlowLink { link, ms, bytes_per_ms: rng.range(1, 50) },
            22 | 13 => Fault::Lossy { link, ms, per_mille: rng.range(10, 300) },
            23 if !steady && hosts > 2 && rng.chance(100) => Fault::Leave { host },
            _ => Fault::Delay { link, ms: if rng.chance(50) { rng.spread(1000, limits::DAY_MS) } else { ms } },
        };
        to.push((at, fault));
    }
}

/// Whether links join all hosts but those that are left out.
#[must_use]
pub fn joins_all(hosts: usize, links: &[LinkPlan], without: &[usize]) -> bool {
    let mut reached = vec![false; hosts];
    let mut next: Vec<usize> = (0..hosts).find(|host| !without.contains(host)).into_iter().collect();
    while let Some(host) = next.pop() {
        if !without.contains(&host) && !std::mem::replace(&mut reached[host], true) {
            let ends = links.iter().filter(|link| link.a == host || link.b == host);
            next.extend(ends.map(|link| link.a + link.b - host));
        }
    }
    reached.iter().enumerate().all(|(host, reached)| *reached || without.contains(&host))
}

/// Kinds of fault a seed weighs.
const KINDS: usize = 25;

const ROOMY: Quotas = Quotas {
    outbox_messages: 1_000_000,
    outbox_bytes: 1 << 30,
    inbox_bytes: 1 << 30,
    transit_bytes: 1 << 30,
    credit_envelopes: 2048,
};

/// Up to thirty years, either way.
fn years(rng: &mut Rng) -> i64 {
    let ms = rng.spread(1000, 30 * 365 * limits::DAY_MS) as i64;
    if rng.chance(500) { ms } else { -ms }
}
