#!/usr/bin/env bash
# certificate.sh DIRECTORY   a certificate of a.test as a public CA would issue it: root.pem, cert.pem (leaf and issuer), key.pem.
# other.pem is a root that issued none of it.
set -euo pipefail
cd "$1"
root() { # file, name
    openssl req -x509 "${key[@]}" -days 90 -subj "/O=Ployz tests/CN=$2" -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
signed() { # file, its issuer's file, days, subject, extensions...
    openssl req "${key[@]}" -subj "$4" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -days "$3" -out "$1.pem" 2>/dev/null \
        -extfile <(printf '%s\n' subjectKeyIdentifier=hash authorityKeyIdentifier=keyid \
            "authorityInfoAccess=OCSP;URI:http://ocsp.test/$2" "${@:5}")
}
# An operator may have either kind: KEY=rsa.
case ${KEY:-ec} in
    rsa) key=(-newkey rsa:2048 -nodes) ;;
    *) key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes) ;;
esac
root root "Test root"
root other "Other root"
signed issuer root 90 "/O=Ployz tests/CN=Test issuer" basicConstraints=critical,CA:TRUE,pathlen:0 keyUsage=critical,keyCertSign,cRLSign
signed leaf issuer 89 "/CN=a.test" basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
    extendedKeyUsage=serverAuth 'subjectAltName=DNS:a.test,DNS:grpc.test,DNS:*.grpc.test'
cat leaf.pem issuer.pem >cert.pem
mv leaf.key key.pem
