# The storm: what is done on housekeeping cores that interrupts an isolated
# one. Usage: sh storm.sh WATCHED OFFLINE: the core whose interrupts are
# counted around each action, and the one that is taken offline and back.
#
# Prints `storm: ACTION status=N interrupts=N` for each action.

watched=$1
offline=$2

# Everything in /proc/interrupts that the watched core took.
count() {
    awk -v core="CPU$watched" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == core) column = i + 1; next }
        { sum += $column }
        END { print sum + 0 }' /proc/interrupts
}

action() {
    name=$1
    before=$(count)
    shift
    "$@" >/tmp/storm.out 2>&1
    status=$?
    # What it set off in the background.
    sleep 1
    echo "storm: $name status=$status interrupts=$(($(count) - before))"
    if [ $status -ne 0 ]; then
        sed 's/^/storm: said: /' /tmp/storm.out
    fi
}

# Several times, since each is short.
stat_refresh() {
    for _ in 1 2 3 4 5; do cat /proc/sys/vm/stat_refresh || return 1; done
}

static_key() {
    echo 1 >/proc/sys/kernel/sched_schedstats &&
        echo 0 >/proc/sys/kernel/sched_schedstats
}

compact_memory() {
    # Pages that can be moved, with holes between them.
    for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/tmp/fill$i bs=1M count=8; done
    rm /tmp/fill1 /tmp/fill3 /tmp/fill5 /tmp/fill7
    echo 1 >/proc/sys/vm/compact_memory
    status=$?
    rm /tmp/fill*
    return $status
}

mtrr() {
    echo 'base=0xd0000000 size=0x1000000 type=write-combining' >/proc/mtrr &&
        echo 'disable=1' >/proc/mtrr
}

module() { modprobe dummy && rmmod dummy; }

kvm() { modprobe kvm && modprobe kvm-amd; }

trace_event() {
    echo 1 >/sys/kernel/tracing/events/sched/sched_switch/enable &&
        echo 0 >/sys/kernel/tracing/events/sched/sched_switch/enable
}

# Of some hundred functions that nothing calls: to patch all 50,000 takes an
# emulator minutes.
function_tracer() {
    echo 'tcp_*' >/sys/kernel/tracing/set_ftrace_filter &&
        echo function >/sys/kernel/tracing/current_tracer &&
        echo nop >/sys/kernel/tracing/current_tracer
}

cpu_offline() {
    echo 0 >/sys/devices/system/cpu/cpu"$offline"/online &&
        echo 1 >/sys/devices/system/cpu/cpu"$offline"/online
}

backtraces() { echo l >/proc/sysrq-trigger; }

dmesg -n 1
mount -t tracefs tracefs /sys/kernel/tracing
# The program that wants to be left alone.
taskset $(printf %x $((1 << watched))) sh -c 'while :; do :; done' &
busy=$!
sleep 2

action nothing true
action static-key static_key
action mtrr-write mtrr
action stat-refresh stat_refresh
action compact-memory compact_memory
action module-load module
action trace-event trace_event
action function-tracer function_tracer
action cpu-offline cpu_offline
action nmi-backtraces backtraces
# Thousands of code patches, each with an interrupt for every core: where
# emulated cores outnumber the host's, one that is busy answers late.
kill $busy
action kvm-load kvm
echo 'storm: over'
