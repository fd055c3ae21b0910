//! An object store: objects that are written once, listed, read and removed, by a client whose calls are slow, fail, lose their reply, or read
//! other bytes than were written.
//!
//! Owns the objects and the faults of the calls. What the objects mean is the caller's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::world::World;

/// What goes wrong, and how often (once in so many calls; 0: never).
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreFaults {
    /// The call is refused or times out, and nothing was done.
    pub fail: usize,
    /// The call is done, and its caller is told that it failed.
    pub lose_reply: usize,
    /// A read gives other bytes: one bit flipped, a part cut off, or those of another object.
    pub damage: usize,
    /// Longest time of a call in microseconds.
    pub longest_us: u64,
}

/// Why a call did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// There is no such object.
    Missing,
    /// It was done or not.
    Unavailable,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was written, in milliseconds since the world began.
    pub modified_ms: u64,
}

struct Object {
    bytes: Vec<u8>,
    modified_ms: u64,
}

#[derive(Default)]
struct Objects {
    objects: BTreeMap<String, Object>,
    faults: StoreFaults,
    failed: u64,
    damaged: u64,
}

/// See the module's documentation. Clones are the same store.
#[derive(Clone)]
pub struct ObjectStore {
    world: World,
    inner: Rc<RefCell<Objects>>,
}

impl ObjectStore {
    /// An empty store without faults.
    pub fn new(world: &World) -> Self {
        Self { world: world.clone(), inner: Rc::default() }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: StoreFaults) {
        self.inner.borrow_mut().faults = faults;
    }

    /// Calls that failed, and reads that gave other bytes.
    pub fn faults_seen(&self) -> (u64, u64) {
        let inner = self.inner.borrow();
        (inner.failed, inner.damaged)
    }

    /// Writes an object if there is none of this name; true if it was written.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<bool, StoreError> {
        let modified_ms = self.world.now_ms();
        self.call(|objects| match objects.objects.contains_key(key) {
            true => Ok(false),
            false => {
                objects.objects.insert(key.to_owned(), Object { bytes, modified_ms });
                Ok(true)
            }
        })
        .await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let once_in = self.inner.borrow().faults.damage;
        let how = (once_in > 0 && self.world.below(once_in) == 0).then(|| self.world.below(usize::MAX));
        self.call(|objects| {
            let bytes = objects.objects.get(key).map(|object| object.bytes.clone()).ok_or(StoreError::Missing)?;
            Ok(how.map_or(bytes.clone(), |how| objects.damage(bytes, how)))
        })
        .await
    }

    /// All objects, in the order of their keys.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        self.call(|objects| Ok(objects.list())).await
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call(|objects| {
            objects.objects.remove(key);
            Ok(())
        })
        .await
    }

    /// All objects, at once and without faults: for whoever checks.
    pub fn peek(&self) -> Vec<Listed> {
        self.inner.borrow().list()
    }

    /// An object's bytes, at once and without faults.
    pub fn peek_at(&self, key: &str) -> Option<Vec<u8>> {
        self.inner.borrow().objects.get(key).map(|object| object.bytes.clone())
    }

    /// Does a call at some moment between its beginning and its end, unless it fails.
    async fn call<T>(&self, run: impl FnOnce(&mut Objects) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let faults = self.inner.borrow().faults;
        let once_in = |n: usize| n > 0 && self.world.below(n) == 0;
        let (fails, reply_lost) = (once_in(faults.fail), once_in(faults.lose_reply));
        let longest = usize::try_from(faults.longest_us).expect("a call takes no years");
        self.world.sleep(self.world.below(longest + 1) as u64).await;
        if fails {
            self.inner.borrow_mut().failed += 1;
            return Err(StoreError::Unavailable);
        }
        let result = run(&mut self.inner.borrow_mut());
        self.world.note(&result.is_ok());
        self.world.sleep(self.world.below(longest + 1) as u64).await;
        if reply_lost {
            self.inner.borrow_mut().failed += 1;
            return Err(StoreError::Unavailable);
        }
        result
    }
}

impl Objects {
    fn list(&self) -> Vec<Listed> {
        let listed = |(key, object): (&String, &Object)| {
            let length = object.bytes.len() as u64;
            Listed { key: key.clone(), length, modified_ms: object.modified_ms }
        };
        self.objects.iter().map(listed).collect()
    }

    fn damage(&mut self, mut bytes: Vec<u8>, how: usize) -> Vec<u8> {
        self.damaged += 1;
        let place = how / 3 % bytes.len().max(1);
        match how % 3 {
            0 if !bytes.is_empty() => bytes[place] ^= 1 << (how % 8),
            1 => bytes.truncate(place),
            _ => {
                let others = self.objects.values().nth(place % self.objects.len().max(1));
                bytes = others.map(|object| object.bytes.clone()).unwrap_or_default();
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Faults;

    const QUIET: Faults = Faults { break_once_in: 0, way_us: 0, latest_us: 0, marker_us: 0 };

    /// Runs a task to its end in a world of its own.
    fn run<T: 'static>(faults: StoreFaults, task: impl AsyncFn(ObjectStore) -> T + 'static) -> T {
        let world = World::new(1, QUIET);
        let store = ObjectStore::new(&world);
        store.set_faults(faults);
        let (out, own) = (Rc::new(RefCell::new(None)), store);
        let place = Rc::clone(&out);
        world.spawn(async move {
            let done = task(own).await;
            place.borrow_mut().replace(done);
        });
        world.run_until(60_000);
        out.take().expect("the task ends")
    }

    #[test]
    fn an_object_is_written_once_listed_and_removed() {
        run(StoreFaults { longest_us: 1_000, ..StoreFaults::default() }, async |store: ObjectStore| {
            assert_eq!(store.put("a", vec![1]).await, Ok(true));
            assert_eq!(store.put("a", vec![2]).await, Ok(false), "it is there already");
            assert_eq!(store.get("a").await, Ok(vec![1]));
            assert_eq!(store.list().await.map(|all| all[0].key.clone()), Ok("a".to_owned()));
            assert_eq!(store.delete("a").await, Ok(()));
            assert_eq!(store.get("a").await, Err(StoreError::Missing));
        });
    }

    #[test]
    fn a_failed_call_did_nothing_and_a_lost_reply_did_everything() {
        let there = |faults| {
            run(faults, async |store: ObjectStore| {
                assert_eq!(store.put("a", vec![1]).await, Err(StoreError::Unavailable));
                store.peek().len()
            })
        };
        assert_eq!(there(StoreFaults { fail: 1, ..StoreFaults::default() }), 0);
        assert_eq!(there(StoreFaults { lose_reply: 1, ..StoreFaults::default() }), 1);
    }

    #[test]
    fn damage_is_always_other_bytes_or_fewer() {
        run(StoreFaults { damage: 1, ..StoreFaults::default() }, async |store: ObjectStore| {
            store.put("a", vec![1, 2, 3]).await.expect("it is written");
            store.put("b", vec![9]).await.expect("it is written");
            let mut seen = 0;
            for _ in 0..50 {
                seen += usize::from(store.get("a").await != Ok(vec![1, 2, 3]));
            }
            assert!(seen > 20, "{seen}");
        });
    }
}
