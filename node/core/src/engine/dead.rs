//! Dead letters: which there are and why, handing them out once more, letting them go (rule CONSUME-5). One question
//! looks at a page of them; who wants all asks on.

use waypost_proto::stored;

use super::effect::{DeadLetter, Effect, Reply};
use super::input::RequestId;
use super::submit::damaged;
use super::{Engine, Round};
use crate::filter::Rejection;
use crate::id::{Class, MessageId};
use crate::message::ChannelName;
use crate::store::keys::{Key as _, after_prefix};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::QueueKey;
use crate::store::tx::Tx;

/// Rows one question looks at: each may hold a whole fragment.
const PAGE: usize = 64;

/// What the names of channels of dead letters begin with.
pub(super) const DEAD: &str = "dead.";

/// The channel in which the dead letters of `channel` lie.
pub(super) fn dead_channel(channel: &str) -> String {
    let mut name = format!("{DEAD}{channel}");
    name.truncate(128);
    name
}

impl Engine {
    /// A page of the dead letters of one channel or of all, and where the next page begins.
    pub(super) fn list_dead(
        &mut self,
        request: RequestId,
        channel: Option<&ChannelName>,
        after: Option<QueueKey>,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let (mut letters, mut looked, mut last) = (Vec::new(), 0, None);
        let begin = after.map_or((0, 0, 0), |(handle, class, arrival)| (handle, class, arrival + 1));
        for handle in self.channels.dead(channel).into_iter().filter(|handle| *handle >= begin.0) {
            let from = if handle == begin.0 { begin.encode() } else { (handle, 0u8, 0u64).encode() };
            let rows = tx.scan::<stored::Queue>(&from, &after_prefix(&(handle,).encode()), PAGE - looked)?;
            looked += rows.len();
            for (key, row) in rows {
                letters.extend(self.letter(key, &row, tx)?);
                last = Some(key);
            }
            if looked == PAGE {
                break;
            }
        }
        let next = last.filter(|_| looked == PAGE);
        tx.claim(Effect::Reply { request, reply: Reply::Dead { letters, next } });
        Ok(())
    }

    /// What lies at a place in a dead-letter channel; `None` when it came there by its address, as living mail.
    fn letter(&mut self, place: QueueKey, row: &stored::Queue, tx: &Tx<'_>) -> Result<Option<DeadLetter>, StoreError> {
        let Some(message) = tx.get::<stored::Inbox>(&(row.handle, row.number))? else { return Ok(None) };
        let Some(death) = message.death else { return Ok(None) };
        let from = self.flow_of(row.handle, tx)?.ok_or_else(|| damaged(Table::InFlow))?.source;
        let reason = match (Rejection::describe(death.reason), death.words.as_str()) {
            (reason, "") => reason.to_owned(),
            (reason, words) => format!("{reason}: {words}"),
        };
        Ok(Some(DeadLetter {
            place,
            id: MessageId::from_slice(&message.id).ok_or_else(|| damaged(Table::Inbox))?,
            channel: death.channel,
            from,
            reason,
            deliveries: death.deliveries,
            died_at_ms: death.at_ms,
            size: message.size,
        }))
    }

    /// Hands dead letters out once more in the channel they were for, or lets them go. What is in a consumer's hands, or
    /// is not there any more, stays as it is and is not in the answer.
    pub(super) fn settle_dead(
        &mut self,
        request: RequestId,
        letters: &[(QueueKey, MessageId)],
        is_retried: bool,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut done = Vec::new();
        for (place, id) in letters {
            if self.settle_letter(*place, *id, is_retried, tx)? {
                done.push(*id);
            }
        }
        tx.claim(Effect::Reply { request, reply: Reply::DeadSettled(done) });
        Ok(())
    }

    fn settle_letter(
        &mut self,
        key: QueueKey,
        id: MessageId,
        is_retried: bool,
        tx: &mut Tx<'_>,
    ) -> Result<bool, StoreError> {
        let Some(stored::Queue { handle, number, .. }) = tx.get::<stored::Queue>(&key)? else { return Ok(false) };
        let Some(message) = tx.get::<stored::Inbox>(&(handle, number))? else { return Ok(false) };
        let Some(death) = message.death.clone().filter(|_| message.id == id.0.as_slice()) else { return Ok(false) };
        if self.channels.is_leased(key) || (is_retried && !self.channels.make_room(&death.channel, tx)) {
            return Ok(false);
        }
        self.take_out(key, message.size, tx);
        if is_retried {
            let class = Class::from_wire(message.class).unwrap_or(Class::Normal);
            let row = stored::Inbox { channel: death.channel, death: None, ..message };
            self.queue(handle, number, class, row, tx)?;
        } else {
            Self::delete_message((handle, number), &message, tx);
        }
        Ok(true)
    }

    /// What a message's end among the living is remembered by.
    pub(super) fn death_of(
        round: Round,
        key: QueueKey,
        channel: &str,
        (why, words): (Rejection, &str),
        tx: &Tx<'_>,
    ) -> Result<stored::Death, StoreError> {
        let deliveries = tx.get::<stored::Queue>(&key)?.map(|row| row.deliveries).unwrap_or_default();
        let words = words.chars().take(1000).collect();
        Ok(stored::Death {
            channel: channel.to_owned(),
            reason: why as u32,
            deliveries,
            at_ms: round.now.wall_ms,
            words,
        })
    }
}
