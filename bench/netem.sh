#!/bin/sh
# Networks for `tc netem`, on machines whose kernel has it: bench/netem.sh DEVICE PROFILE, then DEVICE off.
# Each is the link of the same name in bench/congestion.py, half of the delay in each direction: run it on both
# ends, or on lo, where a packet passes twice. tests/net/impair does the same, and more, without netem.
set -eu

usage() {
    cat >&2 <<'USAGE'
Usage: bench/netem.sh DEVICE PROFILE     (as root)

  simple    10 Mbit/s, 30 ms, a queue of 25 packets: the interop runner's link
  clean     100 Mbit/s, 30 ms
  loss1     the same with 1 % loss           loss2    with 2 %
  long100   100 Mbit/s, 100 ms               long300  300 ms
  reorder   10 % of the packets overtake others, 30 ms
  corrupt   2 % of the packets with a wrong bit, 30 ms
  double    2 % of the packets twice, 30 ms
  mobile    20 Mbit/s, 60 ms give or take 20, bursts of loss
  off       as it was
USAGE
    exit 2
}

[ $# = 2 ] || usage
device=$1
netem() {
    tc qdisc replace dev "$device" root netem "$@" && return
    echo "netem.sh: perhaps this kernel has no sch_netem; tests/net/impair needs none" >&2
    exit 1
}
case $2 in
simple) netem delay 15ms rate 10mbit limit 25 ;;
clean) netem delay 15ms rate 100mbit limit 300 ;;
loss1) netem delay 15ms rate 100mbit limit 300 loss 1% ;;
loss2) netem delay 15ms rate 100mbit limit 300 loss 2% ;;
long100) netem delay 50ms rate 100mbit limit 1000 ;;
long300) netem delay 150ms rate 100mbit limit 3000 ;;
reorder) netem delay 15ms reorder 10% 50% limit 1000 ;;
corrupt) netem delay 15ms corrupt 2% limit 1000 ;;
double) netem delay 15ms duplicate 2% limit 1000 ;;
mobile) netem delay 30ms 10ms distribution normal rate 20mbit loss gemodel 1% 20% limit 300 ;;
off) tc qdisc del dev "$device" root ;;
*) usage ;;
esac
