//! Sealing keys, and workers booked for sealed jobs.

use std::collections::BTreeSet;

use protocol::{Envelope, JobId, PublicKey, ReservationId, SignedSealingKey};

use super::Deciding;
use crate::{
    Answer, Event, JobSpec, Rejection, SealedTo, Sealing, SealingRequest,
    sealed::{BOOKING_MS_MAX, BOOKINGS_MAX, RECIPIENTS_MAX},
};

impl Deciding<'_> {
    /// A worker says what can be sealed to it. The shell verified the signature.
    pub(super) fn give_sealing_key(
        &mut self,
        worker: PublicKey,
        instance: &str,
        signed: SignedSealingKey,
    ) -> Result<Answer, Rejection> {
        let known = self.live_worker(worker, instance)?;
        if signed.record.worker != worker {
            return Err(Rejection::SealingKeyInvalid("it is another worker's"));
        }
        if signed.record.market != self.state.market() {
            return Err(Rejection::SealingKeyInvalid("it is for another market"));
        }
        if signed.record.valid_until_ms <= self.now_ms {
            return Err(Rejection::SealingKeyInvalid("it is not valid any more"));
        }
        if known.sealing != Some(signed) {
            self.emit(Event::SealingKeyGiven { signed });
        }
        Ok(Answer::Done)
    }

    /// Keeps workers for a job that is about to be sealed to them.
    pub(super) fn reserve(&mut self, request: SealingRequest) -> Result<Answer, Rejection> {
        let SealingRequest { account, mut spec, quoted, providers, only, hold_ms } = request;
        if hold_ms == 0 || hold_ms > BOOKING_MS_MAX {
            return Err(Rejection::SpecInvalid(format!(
                "workers are kept for 1 to {} seconds",
                BOOKING_MS_MAX / 1_000
            )));
        }
        self.check_sealable(&spec, u64::from(providers))?;
        let own = self.state.bookings.values().filter(|booking| booking.account == account);
        if own.count() >= BOOKINGS_MAX {
            return Err(Rejection::BookingsTooMany(BOOKINGS_MAX));
        }
        // Whoever cannot pay for the job keeps nobody from working.
        let needed = self.sealed_escrow(&mut spec, &quoted)?;
        let available = self.state.accounts.get(&account).copied().unwrap_or_default().available;
        if needed > available {
            return Err(Rejection::BalanceTooLow { needed, available });
        }
        let until_ms = self.now_ms + hold_ms;
        let found = self.state.bookable(account, &spec.stages[0], providers as usize, &only, until_ms);
        let recipients = found.map_err(Rejection::ProvidersTooFew)?;
        let reservation = ReservationId(self.state.next.reservation + 1);
        self.emit(Event::ProvidersReserved { reservation, account, recipients, until_ms });
        Ok(Answer::Reserved { reservation, escrow: needed })
    }

    /// Lets workers go that are not needed after all.
    pub(super) fn end_reservation(
        &mut self,
        reservation: ReservationId,
        by: PublicKey,
    ) -> Result<Answer, Rejection> {
        self.own_booking(reservation, by)?;
        self.emit(Event::ReservationEnded { reservation });
        Ok(Answer::Done)
    }

    /// Bookings whose time is over.
    pub(super) fn end_bookings(&mut self) {
        while let Some((_, reservation)) =
            self.state.booking_ends.first().filter(|(at, _)| *at <= self.now_ms).copied()
        {
            self.emit(Event::ReservationEnded { reservation });
        }
    }

    /// What a sealed job holds in escrow; sets the prices that are quoted.
    pub(super) fn sealed_escrow(
        &self,
        spec: &mut JobSpec,
        quoted: &[u32],
    ) -> Result<protocol::Amount, Rejection> {
        let quote = self.state.quote(spec, quoted, self.now_ms);
        for stage in quoted {
            spec.stages[*stage as usize].unit_price = quote.stages[*stage as usize].unit_price;
        }
        let third = spec.third_opinions(spec.units());
        let escrow = quote.escrow.zip(third).and_then(|(escrow, third)| escrow.checked_add(third));
        escrow.ok_or(Rejection::AmountTooLarge)
    }

    /// Whether a job may be sealed to so many.
    pub(super) fn check_sealable(&self, spec: &JobSpec, recipients: u64) -> Result<(), Rejection> {
        if let Some(flaw) = spec.sealing_flaw() {
            return Err(Rejection::SpecInvalid(flaw));
        }
        let least = spec.recipients_min();
        if !(least..=RECIPIENTS_MAX.into()).contains(&recipients) {
            return Err(Rejection::SpecInvalid(format!(
                "a job with this verification is sealed to {least} to {RECIPIENTS_MAX} workers, not {recipients}: those who compute \
                 and check a unit, and one more to decide between two that disagree"
            )));
        }
        Ok(())
    }

    /// Whether an account's sealed job may go to whom it was sealed.
    pub(super) fn check_sealing(
        &self,
        spec: &JobSpec,
        account: PublicKey,
        sealing: &Sealing,
    ) -> Result<(), Rejection> {
        let booking = self.own_booking(sealing.reservation, account)?;
        self.check_sealable(spec, booking.recipients.len() as u64)?;
        let reserved: BTreeSet<_> = booking.recipients.iter().map(|recipient| recipient.worker).collect();
        let sealed: BTreeSet<_> = sealing.envelopes.iter().map(|(worker, _)| *worker).collect();
        if reserved != sealed || sealing.envelopes.len() != sealed.len() {
            return Err(Rejection::SpecInvalid(
                "a sealed job has one envelope for each worker of its reservation".into(),
            ));
        }
        Ok(())
    }

    /// Gives a job that was just submitted to its recipients alone.
    pub(super) fn seal_job(&mut self, job: JobId, sealing: Sealing) {
        let Sealing { reservation, envelopes } = sealing;
        let envelope = |worker: &PublicKey| -> Envelope {
            envelopes.iter().find(|(of, _)| of == worker).expect("one for each recipient").1
        };
        let booked = &self.state.bookings[&reservation].recipients;
        let recipients = booked
            .iter()
            .map(|to| SealedTo { worker: to.worker, key: to.key, envelope: envelope(&to.worker) })
            .collect();
        self.emit(Event::JobSealed { job, reservation, recipients });
    }

    fn own_booking(&self, id: ReservationId, by: PublicKey) -> Result<&crate::Booking, Rejection> {
        let booking = self.state.bookings.get(&id).ok_or(Rejection::ReservationUnknown(id))?;
        if booking.account == by { Ok(booking) } else { Err(Rejection::ReservationForeign(id)) }
    }
}
