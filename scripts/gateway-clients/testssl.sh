# shellcheck shell=bash disable=SC2154
# What testssl.sh finds, all of its checks; read by test-gateway-clients.sh. Nothing above LOW is let pass, and nothing that it could
# not test. It mostly sleeps between its packets, so its checks run in groups side by side. The gateway it looks at also has a
# static pair: some of its checks (renegotiation) ask for no name, and would otherwise see a refusal alone.
testssl_groups=('-p -s -f' '-P -e' '-S -h' '-U' '-c -g')
testssl_begins() {
    local group
    for group in "${!testssl_groups[@]}"; do
        # shellcheck disable=SC2086 # options
        timeout 600 testssl --quiet --warnings off --color 0 --nodns none --ip 127.0.0.1 --add-ca "$dir/root.pem" \
            --jsonfile "$dir/judged-$group.json" ${testssl_groups[group]} "$https/bytes/1000" \
            </dev/null >"$dir/judged-$group" 2>&1 & judging[group]=$!
    done
}
testssl_clients() {
    local group
    for group in "${!testssl_groups[@]}"; do
        # Its exit code counts findings of every severity; its last line is what says that it came to its end.
        wait "${judging[group]}" || true
        check "testssl.sh ${testssl_groups[group]}, to its end" '^ Done ' "$(tail -n 5 "$dir/judged-$group")"
    done
    jq -rs 'add[] | "\(.severity) \(.id): \(.finding)"' "$dir"/judged-*.json >"$dir/findings"
    # A finding of each group, so that checks which are gone are noticed.
    for group in 'OK SSLv3: not offered' 'OK TLS1_3: offered with final' 'OK cipherlist_NULL: not offered' \
        'OK cipher_order: server' 'OK cert_chain_of_trust: passed' 'OK heartbleed: not vulnerable' 'OK secure_renego: supported' \
        'OK secure_client_renego:' 'OK HSTS_time:' 'INFO clientsimulation-' 'OK GREASE:'; do
        check "testssl.sh $group" "^$group" "$(grep -F "${group%%:*}" "$dir/findings")"
    done
    # Left out: that Debian's OpenSSL has no GOST engine is a matter of the client.
    check 'testssl.sh finds nothing above LOW' '^nothing$' \
        "$(grep -vE '^(OK|INFO|LOW) |^WARN engine_problem: No engine or GOST' "$dir/findings" || echo nothing)"
    echo "testssl.sh: $(wc -l <"$dir/findings") findings, of them LOW: $(sed -n 's/^LOW //p' "$dir/findings" | paste -sd ';')"
}
