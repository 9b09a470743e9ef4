//! What is sent or offered is answered in time, or sent again over another connection: a neighbour that keeps a connection
//! and answers nothing must not hold mail up (rule HOP-11).

use super::alarm::Alarm;
use super::effect::Effect;
use super::{Engine, Round};
use crate::id::NodeId;
use crate::store::kv::StoreError;
use crate::store::tx::Tx;

impl Engine {
    /// Sets the timers of neighbours from whom answers are awaited since now.
    pub(super) fn await_answers(&mut self, round: Round) {
        for (peer, link) in &mut self.links {
            let timer = Alarm::Answer(*peer);
            if !self.alarms.is_set(timer) && link.in_hand().next().is_some() {
                link.heard_ms = round.now.boot_ms;
                self.alarms.set(timer, round.now.boot_ms + link.patience_ms());
            }
        }
    }

    /// A neighbour should have answered by now: a connection on which it did not is closed.
    pub(super) fn expect_answer(&mut self, round: Round, peer: NodeId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(link) = self.links.get(&peer).filter(|link| link.in_hand().next().is_some()) else { return Ok(()) };
        let until = link.heard_ms + link.patience_ms();
        if until > round.now.boot_ms {
            self.alarms.set(Alarm::Answer(peer), until);
            return Ok(());
        }
        let (session, why) = (link.session, "it answers nothing");
        tx.hint(Effect::Disconnect { peer, session, why });
        self.lost(round, peer, session, tx)
    }
}
