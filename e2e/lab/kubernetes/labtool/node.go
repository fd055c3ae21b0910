package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

type mount struct {
	Source string `json:"source"`
	Target string `json:"target"`
	Type   string `json:"type"` // bind, proc or tmpfs
}

type service struct {
	Name      string   `json:"name"`
	Args      []string `json:"args"`
	WaitFor   string   `json:"waitFor"` // a path that must exist before the first start
	running   int
	notBefore time.Time
}

type nodeConfig struct {
	Hostname string     `json:"hostname"`
	Dir      string     `json:"dir"`
	Mounts   []mount    `json:"mounts"`
	Services []*service `json:"services"`
}

// startNode starts `labtool init` in mount, PID, UTS and IPC namespaces of its own and prints its process id. That process being the
// first of its PID namespace, to kill it ends everything in the node and drops all of the node's mounts.
func startNode(args []string) error {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	config := flags.String("config", "", "configuration of the node")
	logFile := flags.String("log", "", "log of the node's first process")
	_ = flags.Parse(args) // ExitOnError
	log, err := appendTo(*logFile)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "init", "-config", *config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return nil
}

// initNode is the first process of a node: it makes the mounts, keeps the services running and reaps what ended. While a file
// DIR/stop/NAME exists, the service NAME stays down.
func initNode(args []string) error {
	flags := flag.NewFlagSet("init", flag.ExitOnError)
	file := flags.String("config", "", "configuration of the node")
	_ = flags.Parse(args) // ExitOnError
	if os.Getpid() != 1 {
		return errors.New("must be the first process of a PID namespace: use `labtool node`")
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	var node nodeConfig
	if err := json.Unmarshal(data, &node); err != nil {
		return err
	}
	if err := node.prepare(); err != nil {
		return err
	}
	for {
		for _, s := range node.Services {
			if err := node.keep(s); err != nil {
				return err
			}
		}
		node.reap()
		time.Sleep(50 * time.Millisecond)
	}
}

func (n *nodeConfig) prepare() error {
	if err := syscall.Sethostname([]byte(n.Hostname)); err != nil {
		return err
	}
	// Private first, so that nothing made here reaches the host; shared afterwards, because the kubelet's volumes must reach the pods.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for _, m := range append([]mount{{Source: "proc", Target: "/proc", Type: "proc"}}, n.Mounts...) {
		kind, flags := m.Type, uintptr(0)
		if kind == "bind" {
			kind, flags = "", syscall.MS_BIND
		}
		if err := syscall.Mount(m.Source, m.Target, kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.Source, m.Target, err)
		}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make the mounts shared: %w", err)
	}
	for _, d := range []string{"log", "stop"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// keep starts or stops one service as its files say, at most one start a second.
func (n *nodeConfig) keep(s *service) error {
	stopped := exists(filepath.Join(n.Dir, "stop", s.Name))
	if s.running != 0 {
		if stopped {
			_ = syscall.Kill(s.running, syscall.SIGKILL) // it may have ended by itself
		}
		return nil
	}
	if stopped || time.Now().Before(s.notBefore) || (s.WaitFor != "" && !exists(s.WaitFor)) {
		return nil
	}
	log, err := appendTo(filepath.Join(n.Dir, "log", s.Name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	s.running, s.notBefore = cmd.Process.Pid, time.Now().Add(time.Second)
	event("%s started as %d", s.Name, s.running)
	return cmd.Process.Release() // reap waits for it, with everything else
}

// reap waits for every ended child, the services and what containers left behind.
func (n *nodeConfig) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
		for _, s := range n.Services {
			if s.running == pid {
				event("%s ended: exit code %d, signal %v", s.Name, status.ExitStatus(), status.Signal())
				s.running = 0
			}
		}
	}
}

func event(format string, args ...any) {
	fmt.Printf("%s "+format+"\n", append([]any{time.Now().Format(time.RFC3339Nano)}, args...)...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func appendTo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
}
