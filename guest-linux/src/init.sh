#!/bin/busybox sh
# First process of the guest. The lines it prints after the byte 0x1e are read
# by the host: user space is there; the command ended, with its status.

if [ $$ -ne 1 ]; then
    # Leader of the command's session (see below). When it ends, the kernel
    # hangs the console up and drops what was not yet sent: so it waits.
    trap : INT
    sh -c "$(cat /cloister/run)"
    status=$?
    stty sane
    exit $status
fi

bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb mkdir -p /dev/pts /dev/shm /tmp /run /root
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs tmpfs /tmp
$bb mount -t tmpfs tmpfs /run
$bb --install -s /bin
exec </dev/console >/dev/console 2>&1

export PATH=/bin HOME=/root TERM="${TERM:-linux}"
cd /root
stty sane
hostname cloister-linux

printf '\036cloister-user-space\n'

if [ -f /cloister/run ]; then
    # A session of its own on the console, so that Ctrl-C ends the command
    # and not the first process.
    setsid cttyhack /init
    status=$?
    # Kernel messages must not come between the bytes of the status line.
    dmesg -n 1
    printf '\n\036cloister-run-status %d\n' "$status"
else
    echo 'Linux in Cloister. "exit" or "poweroff -f" powers the machine off.'
    setsid cttyhack sh -l
fi

# Returns when the UART has sent everything.
stty sane
poweroff -f
# Not reached unless the machine cannot power off.
while :; do sleep 1000; done
