package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pair is a certificate with its key, both also as text.
type pair struct {
	cert    *x509.Certificate
	key     crypto.Signer
	certPEM []byte
	keyPEM  []byte
}

// identity is one client or server of the cluster.
type identity struct {
	file         string   // NAME of NAME.crt, NAME.key and NAME.kubeconfig
	user         string   // common name: the user that the API server sees
	group        string   // organization: the user's group, if any
	hosts        []string // names and addresses that it serves on, if any
	noKubeconfig bool
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return key, encode("EC PRIVATE KEY", der), err
}

// issue makes and writes the pair of one identity, signed by issuer, or as a new authority without one.
func issue(dir string, issuer *pair, who identity) (*pair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: who.user},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if who.group != "" {
		template.Subject.Organization = []string{who.group}
	}
	for _, h := range who.hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	} else {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
		template.ExtKeyUsage = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	made := &pair{cert, key, encode("CERTIFICATE", der), keyPEM}
	if err := os.WriteFile(filepath.Join(dir, who.file+".crt"), made.certPEM, 0o644); err != nil {
		return nil, err
	}
	return made, os.WriteFile(filepath.Join(dir, who.file+".key"), made.keyPEM, 0o600)
}

const kubeconfigText = `apiVersion: v1
kind: Config
clusters:
- {name: lab, cluster: {server: %q, certificate-authority-data: %s}}
users:
- {name: %[3]s, user: {client-certificate-data: %[4]s, client-key-data: %[5]s}}
contexts:
- {name: lab, context: {cluster: lab, user: %[3]s}}
current-context: lab
`

func writeKubeconfig(dir, file, server string, ca, own *pair) error {
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(kubeconfigText, server, b64(ca.certPEM), file, b64(own.certPEM), b64(own.keyPEM))
	return os.WriteFile(filepath.Join(dir, file+".kubeconfig"), []byte(text), 0o600)
}

// writeSigningKey writes the key that signs the tokens of service accounts.
func writeSigningKey(dir string) error {
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "sa.key"), keyPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sa.pub"), encode("PUBLIC KEY", public), 0o644)
}

// certs writes every key, certificate and kubeconfig of the cluster into one folder.
func certs(args []string) error {
	flags := flag.NewFlagSet("certs", flag.ExitOnError)
	dir := flags.String("dir", "", "folder to write to")
	address := flags.String("address", "", "address of the API server")
	service := flags.String("service-ip", "", "address of the Service kubernetes")
	nodes := flags.String("nodes", "", "NAME=ADDRESS,... of the nodes")
	_ = flags.Parse(args) // ExitOnError
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	ca, err := issue(*dir, nil, identity{file: "ca", user: "lab"})
	if err != nil {
		return err
	}
	front, err := issue(*dir, nil, identity{file: "front-proxy-ca", user: "lab-front-proxy"})
	if err != nil {
		return err
	}
	if _, err := issue(*dir, front, identity{file: "front-proxy", user: "front-proxy"}); err != nil {
		return err
	}
	if err := writeSigningKey(*dir); err != nil {
		return err
	}
	serving := []string{"localhost", "127.0.0.1", *address, *service, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"}
	identities := []identity{
		{file: "apiserver", user: "kube-apiserver", hosts: serving, noKubeconfig: true},
		{file: "apiserver-kubelet", user: "kube-apiserver", group: "system:masters", noKubeconfig: true},
		{file: "admin", user: "admin", group: "system:masters"},
		{file: "controller-manager", user: "system:kube-controller-manager"},
		{file: "scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
		{file: "coredns", user: "lab:coredns"},
		{file: "provisioner", user: "lab:provisioner"},
	}
	for _, n := range strings.Split(*nodes, ",") {
		name, address, ok := strings.Cut(n, "=")
		if !ok {
			return fmt.Errorf("node %q is not NAME=ADDRESS", n)
		}
		identities = append(identities,
			identity{file: name, user: "system:node:" + name, group: "system:nodes", hosts: []string{name, address}})
	}
	for _, who := range identities {
		own, err := issue(*dir, ca, who)
		if err != nil {
			return err
		}
		if who.noKubeconfig {
			continue
		}
		if err := writeKubeconfig(*dir, who.file, "https://"+net.JoinHostPort(*address, "6443"), ca, own); err != nil {
			return err
		}
	}
	return nil
}
