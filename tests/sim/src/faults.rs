//! Faults as they are planned, made to happen. Each takes effect on the simulated disk, clock, process or link and on
//! nothing else; the oracle is told only where the promise itself is weaker afterwards.

use waypost_core::engine::input::{Input, SessionId};
use waypost_core::trust::NodeKey;

use crate::disk::Next;
use crate::host::Process;
use crate::net::{Link, SILENCE_US, Side};
use crate::plan::{Fault, LinkPlan};
use crate::rng::Rng;
use crate::world::{Event, Undo, World};

impl World {
    /// A planned fault begins.
    pub fn inject(&mut self, fault: usize) {
        let fault = self.plan.faults[fault].1.clone();
        if self.healed {
            return;
        }
        self.story.tell(format_args!("FAULT {fault:?}"));
        *self.faults.entry(kind_of(&fault)).or_default() += 1;
        match fault {
            Fault::Kill { .. }
            | Fault::KillInCommit { .. }
            | Fault::KillInRecovery { .. }
            | Fault::PowerCut { .. }
            | Fault::Freeze { .. }
            | Fault::Resume { .. }
            | Fault::Leave { .. }
            | Fault::ClockJump { .. } => self.harm_process(fault),
            Fault::DiskError { .. }
            | Fault::DiskFull { .. }
            | Fault::DiskSlow { .. }
            | Fault::RotBody { .. }
            | Fault::RotLog { .. }
            | Fault::Snapshot { .. }
            | Fault::Restore { .. }
            | Fault::Wipe { .. }
            | Fault::Clone { .. } => self.harm_disk(fault),
            other => self.harm_links(other),
        }
    }

    fn harm_process(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { host, down_ms } => self.kill(host, down_ms),
            Fault::KillInCommit { host, down_ms, torn } => {
                self.hosts[host].disk.arm(Next::Broken { written: !torn });
                self.seen.see(if torn { "torn tail dropped" } else { "written and not acknowledged" });
                self.hosts[host].pause_ms = down_ms;
            }
            Fault::KillInRecovery { host, times } => {
                self.hosts[host].doomed_starts = times;
                self.kill(host, 10);
            }
            Fault::PowerCut { host, down_ms, torn } => self.cut_power(host, down_ms, torn),
            Fault::Freeze { host, ms } => self.freeze(host, ms),
            Fault::Resume { host, after_ms } => self.remember(host, after_ms),
            Fault::ClockJump { host, ms } => {
                self.hosts[host].clock.wall_offset_ms = self.hosts[host].clock.wall_offset_ms.saturating_add(ms);
                self.seen.see(if ms < 0 { "clock set back" } else { "clock set forward" });
            }
            Fault::Leave { host } => {
                self.hosts[host].left = true;
                self.oracle.gone(host);
                if !matches!(self.hosts[host].process, Process::Off) {
                    self.end_process(host, 0, false);
                }
            }
            _ => {}
        }
    }

    fn kill(&mut self, host: usize, down_ms: u64) {
        if matches!(self.hosts[host].process, Process::Off) {
            return;
        }
        let now = self.hosts[host].clock.read(self.now_us);
        self.oracle.before_end(host, &mut self.hosts[host], now);
        if self.hosts[host].has_to_sync() {
            self.seen.see("killed in a commit");
            let written = self.hosts[host].rng.chance(500);
            self.hosts[host].disk.arm(Next::Broken { written });
        }
        self.end_process(host, down_ms, true);
    }

    fn cut_power(&mut self, host: usize, down_ms: u64, torn: bool) {
        let this = &mut self.hosts[host];
        if this.has_to_sync() {
            this.disk.arm(Next::Broken { written: !torn });
            self.seen.see("power cut in a commit");
        }
        let was_off = matches!(this.process, Process::Off);
        this.clock.reboot(self.now_us + down_ms * 1000);
        this.frozen_until_us = 0;
        if was_off {
            this.down_until_us = this.down_until_us.max(self.now_us + down_ms * 1000);
            let at_us = this.down_until_us;
            return self.at_us(at_us, Event::Start { host });
        }
        self.end_process(host, down_ms, false);
    }

    fn freeze(&mut self, host: usize, ms: u64) {
        let until_us = self.now_us + ms * 1000;
        self.hosts[host].frozen_until_us = self.hosts[host].frozen_until_us.max(until_us);
        self.at_us(until_us, Event::Thaw { host });
        self.listen_for_silence(|session| session.ends.iter().position(|end| *end == host).map(|side| 1 - side));
    }

    /// Sides that `deaf` names will give their connections up if they still hear nothing by then.
    fn listen_for_silence(&mut self, deaf: impl Fn(&crate::net::Session) -> Option<usize>) {
        let sides: Vec<(SessionId, usize)> =
            self.net.sessions.iter().filter_map(|(name, session)| Some((*name, deaf(session)?))).collect();
        for (session, side) in sides {
            self.at_us(self.now_us + SILENCE_US, Event::Noticed { session, side, silence: true });
        }
    }

    fn remember(&mut self, host: usize, after_ms: u64) {
        // Between two commits memory and disk agree; in one the snapshot would hold a half.
        if !matches!(self.hosts[host].process, Process::Idle(_)) {
            return;
        }
        let Some(record) = self.hosts[host].record.take() else { return };
        let kept = record.copy();
        self.hosts[host].record = Some(record);
        self.records.push(Some(kept));
        let record = self.records.len() - 1;
        self.after_ms(after_ms, Event::Undo(Undo::Resume { host, record }));
    }

    fn harm_disk(&mut self, fault: Fault) {
        match fault {
            Fault::DiskError { host, written } => self.hosts[host].disk.arm(Next::Broken { written }),
            Fault::DiskFull { host, ms, noticed } => {
                self.hosts[host].low_on_space |= noticed;
                self.hosts[host].disk.full |= !noticed;
                self.measure_space(host);
                self.seen.see(if noticed { "space ran low" } else { "disk full" });
                self.after_ms(ms, Event::Undo(Undo::DiskFull { host }));
            }
            Fault::DiskSlow { host, ms, commit_ms } => {
                self.hosts[host].slow_commit_us = Some(commit_ms * 1000);
                self.after_ms(ms, Event::Undo(Undo::DiskSlow { host }));
            }
            Fault::RotBody { host } => {
                let place = self.hosts[host].rng.bits();
                if self.hosts[host].disk.rot_body(place) {
                    self.seen.see("a body rotted");
                    self.oracle.rotted(self.now_us, host);
                }
            }
            Fault::RotLog { host, commits } => {
                if !matches!(self.hosts[host].process, Process::Off) {
                    self.end_process(host, 500, true);
                }
                let lost = self.hosts[host].disk.lose_commits(commits);
                self.story.tell(format_args!("{host} loses {lost} commits"));
                self.oracle.doubted(self.now_us, host);
            }
            Fault::Snapshot { host } => self.hosts[host].snapshot = Some(self.hosts[host].disk.clone()),
            Fault::Restore { host, down_ms } if self.hosts[host].snapshot.is_some() => self.replace_disk(host, down_ms),
            Fault::Wipe { host, down_ms } => {
                self.hosts[host].snapshot = None;
                self.replace_disk(host, down_ms);
            }
            Fault::Clone { host, ms } => self.copy_host(host, ms),
            _ => {}
        }
    }

    /// The host's watcher tells the engine how much space there is, as it does at every start.
    pub fn measure_space(&mut self, host: usize) {
        let free_bytes = if self.hosts[host].low_on_space { 1 << 20 } else { 1 << 40 };
        self.input(host, Input::SpaceChanged { free_bytes, reserve_bytes: 64 << 20 });
    }

    fn replace_disk(&mut self, host: usize, down_ms: u64) {
        if !matches!(self.hosts[host].process, Process::Off) {
            self.end_process(host, down_ms, true);
        }
        let this = &mut self.hosts[host];
        let full = this.disk.full;
        this.disk = this.snapshot.clone().unwrap_or_default();
        this.disk.full = full;
        self.oracle.doubted(self.now_us, host);
    }

    /// A second host with the same key and a copy of the disk, on links of its own to the same neighbours.
    fn copy_host(&mut self, host: usize, ms: u64) {
        let original = &self.hosts[host];
        let key = NodeKey::from_seed(&original.key.seed());
        let (plan, chain, network) = (original.plan.clone(), original.chain.clone(), original.network);
        let (disk, clock) = (original.disk.clone(), original.clock.clone());
        let copy = self.add_host(plan, key, chain, network, false);
        self.hosts[copy].disk = disk;
        self.hosts[copy].clock = clock;
        self.oracle.copied(self.now_us, host, copy);
        for place in self.net.links_of(host) {
            let plan = self.net.links[place].plan.clone();
            let (a, b) = if plan.a == host { (copy, plan.b) } else { (plan.a, copy) };
            let rng = Rng::of(self.plan.seed, "copied link", self.net.links.len() as u64);
            self.net.links.push(Link::new(LinkPlan { a, b, ..plan }, rng));
        }
        self.seen.see("a clone started");
        self.after_ms(1, Event::Start { host: copy });
        self.after_ms(ms, Event::Undo(Undo::Clone { host: copy }));
    }

    fn harm_links(&mut self, fault: Fault) {
        match fault {
            Fault::Cut { link, ms } => self.cut(link, 0, ms),
            Fault::OneWay { link, ms, from_a } => self.stop(link, usize::from(from_a), 0, ms),
            Fault::HalfOpen { link, unnoticed_ms } => self.half_open(link, unnoticed_ms),
            Fault::Flap { link, times, period_ms } => {
                for time in 0..times {
                    self.cut(link, 2 * time * period_ms, period_ms);
                }
            }
            Fault::Partition { side, ms } => {
                for link in 0..self.net.links.len() {
                    let ends = [self.net.links[link].plan.a, self.net.links[link].plan.b];
                    if ends.map(|host| side >> (host % 64) & 1) == [0, 1]
                        || ends.map(|host| side >> (host % 64) & 1) == [1, 0]
                    {
                        self.cut(link, 0, ms);
                    }
                }
            }
            Fault::Swizzle { period_ms, order } => self.swizzle(period_ms, order),
            Fault::SlowLink { link, ms, bytes_per_ms } => {
                self.net.links[link].slow = Some(bytes_per_ms);
                self.after_ms(ms, Event::Undo(Undo::Slow { link }));
            }
            Fault::Lossy { link, ms, per_mille } => {
                self.net.links[link].lossy = per_mille;
                self.seen.see("a lossy link");
                self.after_ms(ms, Event::Undo(Undo::Lossy { link }));
            }
            Fault::Delay { link, ms } => {
                // A shorter delay within a longer one lets nothing overtake what is under way.
                let link = &mut self.net.links[link];
                link.not_before_us = link.not_before_us.max(self.now_us + ms * 1000);
            }
            _ => {}
        }
    }

    /// Stops links one after the other, and starts them in another order (FoundationDB's swizzle-clogging).
    fn swizzle(&mut self, period_ms: u64, order: u64) {
        let mut rng = Rng::of(order, "swizzle", 0);
        let mut links: Vec<usize> = (0..self.net.links.len()).filter(|_| rng.chance(700)).collect();
        let count = links.len() as u64;
        rng.shuffle(&mut links);
        let begin = links.clone();
        rng.shuffle(&mut links);
        for (turn, link) in begin.into_iter().enumerate() {
            let end = links.iter().position(|other| *other == link).unwrap_or_default() as u64;
            let from_ms = turn as u64 * period_ms;
            self.cut(link, from_ms, (count + end) * period_ms - from_ms);
        }
        self.seen.see("links swizzled");
    }

    fn cut(&mut self, link: usize, after_ms: u64, ms: u64) {
        self.stop(link, 0, after_ms, ms);
        self.stop(link, 1, after_ms, ms);
    }

    fn stop(&mut self, link: usize, towards: usize, after_ms: u64, ms: u64) {
        self.after_ms(after_ms, Event::Undo(Undo::Stop { link, towards }));
        self.after_ms(after_ms + ms.max(1), Event::Undo(Undo::Go { link, towards }));
    }

    fn half_open(&mut self, place: usize, unnoticed_ms: u64) {
        let Some(name) = self.net.links[place].session else { return };
        let Some(session) = self.net.sessions.get(&name) else { return };
        if session.sides != [Side::Up; 2] {
            return;
        }
        let side = self.net.links[place].rng.index(2);
        if let Some(session) = self.net.sessions.get_mut(&name) {
            // Gone without a word: what the other side sends from now on comes to nobody.
            session.sides[side] = Side::Over;
            let (host, other) = (session.ends[side], session.ends[1 - side]);
            let peer = self.hosts[other].id();
            self.input(host, Input::PeerLost { peer, session: name });
        }
        self.seen.see("half-open connection");
        self.after_ms(unnoticed_ms, Event::Noticed { session: name, side: 1 - side, silence: false });
        self.plan_dial(place);
    }

    /// A step or the end of something that lasts.
    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Stop { link, towards } => {
                if !self.healed {
                    self.net.links[link].stopped[towards] += 1;
                    self.listen_for_silence(|session| (session.link == link).then_some(towards));
                }
            }
            Undo::Go { link, towards } => {
                let stopped = &mut self.net.links[link].stopped[towards];
                *stopped = stopped.saturating_sub(1);
                if *stopped == 0 {
                    self.release(link, towards);
                }
            }
            Undo::Slow { link } => self.net.links[link].slow = None,
            Undo::Lossy { link } => self.end_loss(link),
            Undo::DiskFull { host } => {
                self.hosts[host].disk.full = false;
                self.hosts[host].low_on_space = false;
                self.measure_space(host);
            }
            Undo::DiskSlow { host } => self.hosts[host].slow_commit_us = None,
            Undo::Clone { host } => self.end_copy(host),
            Undo::Resume { host, record } => self.resume(host, record),
            Undo::Restore { .. } => {}
        }
    }

    /// No transport stays up that has lost a frame of a stream: in the end the connection goes.
    fn end_loss(&mut self, place: usize) {
        self.net.links[place].lossy = 0;
        let session = self.net.links[place].session;
        if let Some(name) = session.filter(|name| self.net.sessions.get(name).is_some_and(|it| it.marred)) {
            self.close(name);
        }
    }

    fn end_copy(&mut self, copy: usize) {
        self.hosts[copy].left = true;
        if !matches!(self.hosts[copy].process, Process::Off) {
            self.end_process(copy, 0, true);
        }
        for place in self.net.links_of(copy) {
            self.net.links[place].gone = true;
        }
        let original = self.oracle.original_of(copy);
        self.hosts[original].down_until_us = self.hosts[original].down_until_us.min(self.now_us + 1000);
        self.after_ms(1, Event::Start { host: original });
    }

    /// The machine of then goes on in place of the machine of now; its connections are dead and it does not know yet.
    fn resume(&mut self, host: usize, record: usize) {
        let Some(record) = self.records[record].take() else { return };
        if self.hosts[host].left || self.healed {
            return;
        }
        if !matches!(self.hosts[host].process, Process::Off) {
            self.end_process(host, 0, true);
        }
        if self.hosts[host].resume(&record).is_err() {
            return;
        }
        self.seen.see("resumed from memory");
        self.story.tell(format_args!("{host} is resumed from a snapshot of its memory"));
        self.oracle.resumed(self.now_us, host);
        let dead = self.hosts[host].connections_of(&record);
        for (peer, session) in dead {
            self.input(host, Input::PeerLost { peer, session });
        }
        self.come_up(host);
    }

    /// The end of all faults: links pass, disks have room, liars are honest, everybody who stays is started.
    pub fn heal(&mut self) {
        self.healed = true;
        self.story.tell(format_args!("HEALED"));
        for place in 0..self.net.links.len() {
            let link = &mut self.net.links[place];
            // Frames that are hours late would hold their connection up; nobody waits for those any more.
            let late = link.session.filter(|_| link.not_before_us > self.now_us);
            (link.slow, link.not_before_us) = (None, 0);
            if let Some(session) = late {
                self.close(session);
            }
            self.end_loss(place);
            let link = &mut self.net.links[place];
            link.plan.bytes_per_ms = link.plan.bytes_per_ms.max(1000);
            for towards in 0..2 {
                self.net.links[place].stopped[towards] = 0;
                self.release(place, towards);
            }
        }
        for host in 0..self.hosts.len() {
            if host >= self.plan.hosts.len() {
                self.end_copy(host);
                continue;
            }
            if self.hosts[host].malice.is_some() {
                self.part_from_liar(host);
            }
            let this = &mut self.hosts[host];
            (this.disk.full, this.slow_commit_us, this.malice, this.doomed_starts) = (false, None, None, 0);
            this.disk.arm(Next::Synced);
            this.low_on_space = false;
            this.frozen_until_us = this.frozen_until_us.min(self.now_us);
            this.down_until_us = this.down_until_us.min(self.now_us);
            self.at_us(self.now_us + 1000, Event::Start { host });
            self.at_us(self.now_us + 1000, Event::Thaw { host });
            self.measure_space(host);
            let life = self.hosts[host].life;
            self.after_ms(100, Event::Consume { host, life, channel: 1 });
        }
    }

    /// What a liar swallowed it has no credit for any more: its honest successor begins with new connections.
    fn part_from_liar(&mut self, host: usize) {
        let of_host = |ends: &[usize; 2]| ends.contains(&host);
        let sessions = self.net.sessions.iter().filter(|(_, session)| of_host(&session.ends));
        let names: Vec<_> = sessions.map(|(name, _)| *name).collect();
        names.into_iter().for_each(|name| self.close(name));
    }
}

/// A fault's name in tables.
#[must_use]
pub fn kind_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::Kill { .. } => "kill",
        Fault::KillInCommit { .. } => "kill in commit",
        Fault::KillInRecovery { .. } => "kill in recovery",
        Fault::PowerCut { .. } => "power cut",
        Fault::Freeze { .. } => "freeze",
        Fault::DiskError { .. } => "disk error",
        Fault::DiskFull { .. } => "disk full",
        Fault::DiskSlow { .. } => "slow disk",
        Fault::RotBody { .. } => "bit flip in a body",
        Fault::RotLog { .. } => "log cut off",
        Fault::Snapshot { .. } => "snapshot",
        Fault::Restore { .. } => "restore",
        Fault::Wipe { .. } => "disk gone",
        Fault::Clone { .. } => "clone",
        Fault::Resume { .. } => "memory snapshot",
        Fault::ClockJump { .. } => "clock jump",
        Fault::Cut { .. } => "cut",
        Fault::OneWay { .. } => "one-way",
        Fault::HalfOpen { .. } => "half-open",
        Fault::Flap { .. } => "flapping",
        Fault::Partition { .. } => "partition",
        Fault::Swizzle { .. } => "swizzle-clog",
        Fault::SlowLink { .. } => "slow link",
        Fault::Lossy { .. } => "lossy link",
        Fault::Delay { .. } => "delay",
        Fault::Leave { .. } => "leave",
    }
}
