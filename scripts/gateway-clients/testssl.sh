# shellcheck shell=bash disable=SC2154
# What testssl.sh finds (judge-tls.sh), read by test-gateway-clients.sh. Nothing above LOW is let pass, and nothing that it could not
# test. The gateway it looks at also has a static pair: some of its checks (renegotiation) ask for no name, and would otherwise
# see a refusal alone.
testssl_begins() {
    "$parts/judge-tls.sh" "$https/bytes/1000" 127.0.0.1 "$dir/root.pem" >"$dir/findings" 2>"$dir/judged" & judging=($!)
}
testssl_clients() {
    local ended=0
    wait "${judging[0]}" || ended=$?
    judging=()
    check 'testssl.sh finds nothing above LOW, and looks at everything' '^ended with 0$' "ended with $ended
$(cat "$dir/judged")"
    check 'testssl.sh sees HSTS' '^OK HSTS_time:' "$(grep -F HSTS "$dir/findings")"
    echo "testssl.sh: $(wc -l <"$dir/findings") findings, of them LOW: $(sed -n 's/^LOW //p' "$dir/findings" | paste -sd ';')"
}
