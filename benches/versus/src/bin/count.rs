//! Counts what `versus` asks for. Not for timing: its allocator and its clock are slower.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use buttress_versus::counted::{self, Counting};
use buttress_versus::{filtered, memory};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// While the counter traps, the system's own reading of it (in the vDSO) would trap as well.
static TRAPPING: AtomicBool = AtomicBool::new(false);

/// Takes the place of the C library's function for everything linked into this binary.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    type Function = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;
    static REAL: AtomicUsize = AtomicUsize::new(0);

    counted::update(|tally| tally.clock_reads += 1);
    if TRAPPING.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    }
    let mut real = REAL.load(Ordering::Relaxed);
    if real == 0 {
        // SAFETY: a constant, terminated name.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize;
        assert!(real != 0, "no clock_gettime in the C library");
        REAL.store(real, Ordering::Relaxed);
    }
    // SAFETY: the address of the C library's function of that name and type.
    unsafe { std::mem::transmute::<usize, Function>(real)(clock, time) }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trap {
    use super::{Ordering, TRAPPING, counted};

    /// Lets `rdtsc` fault on this thread, or work again.
    fn set(fault: bool) -> bool {
        let mode = if fault { libc::PR_TSC_SIGSEGV } else { libc::PR_TSC_ENABLE };
        // SAFETY: no pointers are passed.
        unsafe { libc::prctl(libc::PR_SET_TSC, mode) == 0 }
    }

    /// Does what `rdtsc` or `rdtscp` would have done.
    extern "C" fn on_fault(
        signal: libc::c_int,
        _: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        // SAFETY: the kernel hands a valid context to a handler installed with SA_SIGINFO, and the
        // instruction it points at was just executed.
        unsafe {
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let at = registers[libc::REG_RIP as usize] as *const u8;
            let length = match (*at, *at.add(1)) {
                (0x0f, 0x31) => 2,
                (0x0f, 0x01) if *at.add(2) == 0xf9 => 3,
                _ => {
                    // A real fault: let it happen again and end the process.
                    libc::signal(signal, libc::SIG_DFL);
                    return;
                }
            };
            set(false);
            let mut processor = 0;
            let counter = core::arch::x86_64::__rdtscp(&mut processor);
            set(true);
            registers[libc::REG_RAX as usize] = (counter & 0xffff_ffff) as i64;
            registers[libc::REG_RDX as usize] = (counter >> 32) as i64;
            if length == 3 {
                registers[libc::REG_RCX as usize] = i64::from(processor);
            }
            registers[libc::REG_RIP as usize] += length;
        }
        counted::update(|tally| tally.counter_reads += 1);
    }

    pub(crate) fn install() {
        // SAFETY: the handler touches only the interrupted thread's registers and a thread local.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
        }
    }

    pub(crate) fn trap(on: bool) {
        if on {
            TRAPPING.store(true, Ordering::Relaxed);
            if !set(true) {
                TRAPPING.store(false, Ordering::Relaxed);
            }
        } else {
            set(false);
            TRAPPING.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod trap {
    pub(crate) fn install() {}
    pub(crate) fn trap(_: bool) {}
}

fn main() {
    trap::install();
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let filter: Vec<String> = arguments.collect();
    match what.as_str() {
        "counts" => {
            for case in filtered(&filter) {
                println!("{}", counted::to_line(&case.name, &counted::count(&case, trap::trap)));
            }
        }
        "memory" => memory::print(),
        other => {
            eprintln!(
                "versus-count: expected `counts` or `memory`, got `{other}`; `versus` runs this for you"
            );
            std::process::exit(2);
        }
    }
}
