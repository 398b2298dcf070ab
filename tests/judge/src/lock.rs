//! What a lock is: the sequential specification that a history is compared with.

use stateright::semantics::SequentialSpec;

/// A request for the lock, by its title.
pub type Title = usize;

#[derive(Debug, Clone, Default)]
pub struct Lock {
    holder: Option<Title>,
    /// The largest fencing token that an answer has named.
    token: u64,
    /// It ended by itself, and nobody has had the lock since.
    expired: Option<Title>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Acquire(Title),
    Release(Title),
    Get(Title),
    List,
    /// It ends by itself, or because its answer could not be delivered.
    End(Title),
    /// A server that was killed had not written yet that it had ended.
    Revive(Title),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ret {
    Granted(u64),
    Busy,
    Released,
    Gone,
    There,
    Holder(Option<Title>),
    Nothing,
}

impl SequentialSpec for Lock {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match *op {
            Op::Acquire(_) if self.holder.is_some() => Ret::Busy,
            Op::Acquire(title) => {
                *self = Self { holder: Some(title), expired: None, ..*self };
                Ret::Granted(self.token)
            }
            Op::Release(title) | Op::Get(title) if self.holder != Some(title) => Ret::Gone,
            Op::Release(_) => {
                self.holder = None;
                Ret::Released
            }
            Op::Get(_) => Ret::There,
            Op::List => Ret::Holder(self.holder),
            Op::End(title) => {
                if self.holder == Some(title) {
                    *self = Self { holder: None, expired: Some(title), ..*self };
                }
                Ret::Nothing
            }
            Op::Revive(title) => {
                if self.holder.is_none() && self.expired == Some(title) {
                    self.holder = self.expired.take();
                }
                Ret::Nothing
            }
        }
    }

    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        let before = self.token;
        match (self.invoke(op), ret) {
            (Ret::Granted(_), Ret::Granted(token)) => {
                self.token = *token;
                before < *token
            }
            (invoked, ret) => invoked == *ret,
        }
    }
}
