package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/control"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// cacheOptions are what the commands about the cache have in common.
type cacheOptions struct {
	cacheDir, stateDir string
	selection          cache.Selection
}

func cacheCommand() *cobra.Command {
	var o cacheOptions
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look at what this node has cached, with the hub running or not",
		// Without these two it shows its help for whatever it is given, and succeeds.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.cacheDir, "cache-dir", "/etc/kubernetes/cache", "The hub's --cache-dir.")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/edge-hub", "The hub's --state-dir.")
	f.StringVar(&o.selection.Identity, "identity", "", "Only what this identity has cached, as cache ls shows it: NAMESPACE/NAME of a ServiceAccount, node/NAME, token/DIGITS, or in full.")
	cmd.AddCommand(o.list(), o.get(), o.verify(), o.remove())
	return cmd
}

func (o *cacheOptions) list() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls [AGENT]",
		Short: "List the views in the cache",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.arguments(args)
			if !slices.Contains([]string{"", "wide", "json"}, output) {
				return fmt.Errorf("-o %s: must be wide or json", output)
			}
			return o.inspect(cmd.Context(), func(ctx context.Context, i *cache.Inspector) error {
				views, err := collect(ctx, i, o.selection)
				if err != nil {
					return err
				}
				if output == "json" {
					return printJSON(cmd.OutOrStdout(), views)
				}
				return printViews(cmd.OutOrStdout(), views, output == "wide")
			})
		},
	}
	o.namespaceFlag(cmd, "Only views of this namespace.")
	cmd.Flags().StringVarP(&output, "output", "o", "", "wide or json.")
	return cmd
}

func (o *cacheOptions) get() *cobra.Command {
	var namespace, output string
	cmd := &cobra.Command{
		Use:   "get AGENT RESOURCE [NAME]",
		Short: "Print cached objects; RESOURCE is one of those that cache ls shows, with discovery NAME is a path",
		Args:  cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.arguments(args)
			if output != "json" && output != "yaml" {
				return fmt.Errorf("-o %s: must be json or yaml", output)
			}
			want := wanted{namespace: namespace}
			if len(args) == 3 {
				want.name = args[2]
			}
			return o.inspect(cmd.Context(), func(ctx context.Context, i *cache.Inspector) error {
				views, err := collect(ctx, i, o.selection)
				if err != nil {
					return err
				}
				if o.selection.Resource == cache.Discovery {
					return printDocument(cmd.OutOrStdout(), i, views, want.name)
				}
				found, err := find(i, views, want, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				return printObjects(cmd.OutOrStdout(), found, want.name != "", output)
			})
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "Only objects of this namespace.")
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json.")
	return cmd
}

// errDamaged makes the exit code 1.
var errDamaged = errors.New("the cache is damaged")

func (o *cacheOptions) verify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [AGENT]",
		Short: "Check every checksum in the cache; the exit code is 1 if something is damaged",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.arguments(args)
			return o.inspect(cmd.Context(), func(ctx context.Context, i *cache.Inspector) error {
				var views, sealed, damaged int
				var bytes int64
				err := i.Views(ctx, o.selection.Matches, func(v cache.ViewInfo) error {
					views++
					bytes += v.Bytes
					switch {
					case v.Damage != "":
						damaged++
						fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", v.File, v.Damage)
					case v.Sealed && !v.Opened:
						sealed++
					}
					return nil
				})
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d views, %s: %d damaged, %d sealed with a key that is not at hand\n", views, size(bytes), damaged, sealed)
				if damaged > 0 {
					return errDamaged
				}
				return nil
			})
		},
	}
}

func (o *cacheOptions) remove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm AGENT [RESOURCE]",
		Short: "Remove views; a running hub is asked to do it, and caches them again with the next list",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			// An empty one selects all, which a variable that is not set must not do.
			empty := slices.Contains(args, "")
			cmd.Flags().Visit(func(f *pflag.Flag) { empty = empty || f.Value.String() == "" })
			if empty {
				return errors.New("an argument or a flag is empty: leave it out to mean all")
			}
			o.arguments(args)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			removed, err := o.removeViews(ctx)
			fmt.Fprintf(cmd.OutOrStdout(), "%d views removed\n", removed)
			return err
		},
	}
	o.namespaceFlag(cmd, "Only views of this namespace.")
	return cmd
}

func (o *cacheOptions) namespaceFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVarP(&o.selection.Namespace, "namespace", "n", "", usage)
}

// arguments takes AGENT [RESOURCE].
func (o *cacheOptions) arguments(args []string) {
	if len(args) > 0 {
		o.selection.Agent = args[0]
	}
	if len(args) > 1 {
		o.selection.Resource = args[1]
	}
}

// inspect opens the cache directory.
func (o *cacheOptions) inspect(ctx context.Context, do func(context.Context, *cache.Inspector) error) error {
	directory, err := os.OpenRoot(o.cacheDir)
	if err != nil {
		return fmt.Errorf("open --cache-dir: %w", err)
	}
	defer directory.Close()
	return do(ctx, cache.NewInspector(directory, o.key()))
}

// key is the node key, nil if it can't be read: then sealed views stay closed.
func (o *cacheOptions) key() *seal.Key {
	state, err := os.OpenRoot(o.stateDir)
	if err != nil {
		return nil
	}
	defer state.Close()
	key, err := seal.ReadKey(os.Getenv("CREDENTIALS_DIRECTORY"), state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(os.Stderr, "Secrets stay sealed:", err)
	}
	return key
}

// removeViews has the hub remove views if one runs, and else does it.
func (o *cacheOptions) removeViews(ctx context.Context) (int, error) {
	directory, err := os.OpenRoot(o.cacheDir)
	if err != nil {
		return 0, fmt.Errorf("open --cache-dir: %w", err)
	}
	defer directory.Close()
	release, err := cache.Change(directory)
	if errors.Is(err, cache.ErrInUse) {
		removed, err := control.Remove(ctx, o.stateDir, o.selection)
		var unreachable *net.OpError
		if errors.As(err, &unreachable) || errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("a hub is using %s and does not answer: is --state-dir %s its own? %w", o.cacheDir, o.stateDir, err)
		}
		return removed, err
	}
	if err != nil {
		return 0, err
	}
	defer release()
	// The hub that starts next has to know that what is removed is missing.
	state, err := os.OpenRoot(o.stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("open --state-dir: %w", err)
	}
	if err == nil {
		defer state.Close()
	}
	store := cache.Open(cache.Options{FS: journal.OS(directory), Key: o.key(), State: state})
	store.KeepAgents(func(string) bool { return true })
	removed, err := store.Remove(o.selection.Matches)
	return removed, errors.Join(err, store.Close())
}

// collect returns the views that are selected, in the order of agent, identity,
// resource and scope.
func collect(ctx context.Context, i *cache.Inspector, selection cache.Selection) ([]cache.ViewInfo, error) {
	views := []cache.ViewInfo{}
	err := i.Views(ctx, selection.Matches, func(v cache.ViewInfo) error {
		views = append(views, v)
		return nil
	})
	slices.SortFunc(views, func(a, b cache.ViewInfo) int { return strings.Compare(a.File, b.File) })
	return views, err
}

func printJSON(to interface{ Write([]byte) (int, error) }, what any) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(what)
}
