# What kafka-up, kafka-down and kafka share; sourced after lib.sh. MILLSTREAM_KAFKA_PORT (default 19090) is the base of all ports:
# broker N has base + 10(N-1) + 2 plain, 3 controller, 4 SASL_SSL, 5 mTLS, 6 plain behind a fault proxy, 7 for pods.
kafka_dir=$state/kafka
kafka_jars=$programs/kafka
port_base=${MILLSTREAM_KAFKA_PORT:-19090}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

port() { printf '%s\n' $((port_base + 10 * ($1 - 1) + $2)); }

# kafka_java CLASS ARGUMENT...: a short-lived program of the distribution.
kafka_java() {
  "$java" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Dlab.level=WARN -Dlab.target=SYSTEM_ERR \
    -Dlog4j2.configurationFile="$lab/kafka.d/log4j2.yaml" -cp "$kafka_jars/*" "$@"
}
